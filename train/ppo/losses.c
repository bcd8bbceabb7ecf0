// The PPO loss of one minibatch, its gradient, and its terms, in one pass over the samples, LANES of them side by side.
//
// losses.py puts before this text, after vector.c: BATCH, ACTIONS, CLIP, VALUE_COEFFICIENT, ENTROPY_COEFFICIENT, BLOCK. A task
// takes BLOCK rows, and leaves its SUMS in partials (BLOCKS, SUMS), which are then added in order.

#define HALF_LOG_2PI 0.918938533f
#define BLOCKS ((BATCH + BLOCK - 1) / BLOCK)
#define SUMS (ACTIONS + 4)
#define BLOCK_END(block) ((block + 1) * BLOCK < BATCH ? (block + 1) * BLOCK : BATCH)

// Lane i of the result is p[i * stride]; lanes from count on are zero.
INLINE vec load_lanes(const float* p, long stride, long count) {
  float lanes[LANES];
  for (long i = 0; i < LANES; i++) lanes[i] = i < count ? p[i * stride] : 0.0f;
  return V(lanes);
}
INLINE void store_lanes(float* p, long stride, long count, vec x) { for (long i = 0; i < count; i++) p[i * stride] = x[i]; }
INLINE float total(vec x) {
  double sum = 0.0;
  for (int i = 0; i < LANES; i++) sum += x[i];
  return (float)sum;
}

// Buffers: d_output (BATCH, ACTIONS + 1), d_log_std (ACTIONS,), terms (6,), partials; output (BATCH, ACTIONS + 1), log_std (ACTIONS,), and of
// the old policy action (BATCH, ACTIONS), mean (BATCH, ACTIONS), log_prob, advantage, returns (BATCH,), log_std (ACTIONS,).
static void ppo_block(float* const* b, long block, int thread) {
  float *d_output = b[0], *sums = b[3] + block * SUMS;
  const float *output = b[4], *log_std = b[5], *action = b[6], *old_mean = b[7], *old_log_prob = b[8];
  const float *advantages = b[9], *returns = b[10], *old_log_std = b[11];

  vec inverse_std[ACTIONS], d_log_stds[ACTIONS];
  float log_scale = 0.0f, kl_of_stds = 0.0f;
  for (int a = 0; a < ACTIONS; a++) {
    inverse_std[a] = exp_vec((vec)(-log_std[a]));
    d_log_stds[a] = (vec)(0.0f);
    log_scale += log_std[a] + HALF_LOG_2PI;
    kl_of_stds += log_std[a] - old_log_std[a] + 0.5f * exp_vec((vec)(2.0f * (old_log_std[a] - log_std[a])))[0] - 0.5f;
  }
  vec policy_losses = (vec)(0.0f), value_losses = (vec)(0.0f), kls = (vec)(0.0f), clipped = (vec)(0.0f);
  const vec zero = (vec)(0.0f), one = (vec)(1.0f), lowest = (vec)(1.0f - CLIP), highest = (vec)(1.0f + CLIP);
  const float share = 1.0f / BATCH;

  for (long row = block * BLOCK; row < BLOCK_END(block); row += LANES) {
    const long count = BATCH - row < LANES ? BATCH - row : LANES;
    const vec weight = load_lanes(&share, 0, count);
    vec mean[ACTIONS], z[ACTIONS], log_prob = (vec)(-log_scale), kl = (vec)(kl_of_stds);
    for (int a = 0; a < ACTIONS; a++) {
      const long at = row * ACTIONS + a;
      mean[a] = tanh_vec(load_lanes(output + row * (ACTIONS + 1) + a, ACTIONS + 1, count));
      z[a] = (load_lanes(action + at, ACTIONS, count) - mean[a]) * inverse_std[a];
      log_prob -= 0.5f * z[a] * z[a];
      const vec moved = (load_lanes(old_mean + at, ACTIONS, count) - mean[a]) * inverse_std[a];
      kl += 0.5f * moved * moved;
    }
    const vec advantage = load_lanes(advantages + row, 1, count), log_ratio = log_prob - load_lanes(old_log_prob + row, 1, count);
    const vec ratio = exp_vec(weight > zero ? log_ratio : zero);  // of lanes past the end 1: infinity times their weight, 0, is NaN
    const vec bounded = ratio < lowest ? lowest : ratio > highest ? highest : ratio;
    const vec free_gain = ratio * advantage, bounded_gain = bounded * advantage;
    policy_losses -= weight * (free_gain > bounded_gain ? bounded_gain : free_gain);
    const vec error = load_lanes(output + row * (ACTIONS + 1) + ACTIONS, ACTIONS + 1, count) - load_lanes(returns + row, 1, count);
    value_losses += weight * error * error;
    kls += weight * kl;
    clipped += bounded == ratio ? zero : weight;

    const vec d_log_prob = free_gain > bounded_gain ? zero : -weight * ratio * advantage;
    for (int a = 0; a < ACTIONS; a++) {
      store_lanes(d_output + row * (ACTIONS + 1) + a, ACTIONS + 1, count, d_log_prob * z[a] * inverse_std[a] * (one - mean[a] * mean[a]));
      d_log_stds[a] += d_log_prob * (z[a] * z[a] - one);
    }
    store_lanes(d_output + row * (ACTIONS + 1) + ACTIONS, ACTIONS + 1, count, (2.0f * VALUE_COEFFICIENT) * weight * error);
  }

  for (int a = 0; a < ACTIONS; a++) sums[a] = total(d_log_stds[a]);
  sums[ACTIONS] = total(policy_losses);
  sums[ACTIONS + 1] = total(value_losses);
  sums[ACTIONS + 2] = total(kls);
  sums[ACTIONS + 3] = total(clipped);
}

static void ppo_gradient(float* const* b, Pool* pool) {
  float *d_log_std = b[1], *terms = b[2], *partials = b[3], entropy = 0.0f;
  run(pool, ppo_block, b, BLOCKS);
  for (long block = 1; block < BLOCKS; block++) for (int i = 0; i < SUMS; i++) partials[i] += partials[block * SUMS + i];
  for (int a = 0; a < ACTIONS; a++) {
    entropy += b[5][a] + HALF_LOG_2PI + 0.5f;
    d_log_std[a] = partials[a] - ENTROPY_COEFFICIENT;
  }
  terms[0] = partials[ACTIONS];
  terms[1] = partials[ACTIONS + 1];
  terms[2] = entropy;
  terms[3] = partials[ACTIONS + 2];
  terms[4] = partials[ACTIONS + 3];
  terms[5] = terms[0] + VALUE_COEFFICIENT * terms[1] - ENTROPY_COEFFICIENT * entropy;
}
