// Adam (Kingma and Ba 2015) on all parameters in one pass, with the gradient's global norm clipped and the learning rate led by the KL.
//
// optimizer.py puts before this text, after vector.c: PIECES, piece_size[PIECES], MAX_NORM, DESIRED_KL (negative: a fixed learning rate),
// the other upper-case constants, and TERMS. Buffers: the parameters; first and second moments, all pieces after each other;
// state [step, learning rate]; sums (TERMS + 1); the gradients; terms (TERMS) of the loss, the KL at KL and the loss itself last.
// sums gains the terms without the loss, the gradient norm and 0 - or, when loss or norm is not finite, just 1 in its last place, and
// nothing else changes.

INLINE int finite(float x) { return x - x == 0.0f; }
INLINE double power(double base, long exponent) {
  double result = 1.0;
  for (; exponent; exponent >>= 1, base *= base) if (exponent & 1) result *= base;
  return result;
}

static void adam(float* const* b, int thread) {
  float *const *parameters = b, *const *gradients = b + PIECES + 4;
  float *first = b[PIECES], *second = b[PIECES + 1], *state = b[PIECES + 2], *sums = b[PIECES + 3];
  const float* terms = b[2 * PIECES + 4];

  double square = 0.0;
  for (int p = 0; p < PIECES; p++) {
    const long whole = piece_size[p] / LANES * LANES;
    vec sum = (vec)(0.0f);
    for (long i = 0; i < whole; i += LANES) sum += CV(gradients[p] + i) * CV(gradients[p] + i);
    for (int i = 0; i < LANES; i++) square += sum[i];
    for (long i = whole; i < piece_size[p]; i++) square += (double)gradients[p][i] * gradients[p][i];
  }
  const float norm = (float)__builtin_sqrt(square);
  if (!finite(norm) || !finite(terms[TERMS - 1])) {
    sums[TERMS] += 1.0f;
    return;
  }
  for (int i = 0; i < TERMS - 1; i++) sums[i] += terms[i];
  sums[TERMS - 1] += norm;

  float rate = state[1];
  if (DESIRED_KL >= 0.0f) {
    if (terms[KL] > 2.0f * DESIRED_KL) rate = rate / RATE_FACTOR < MIN_RATE ? MIN_RATE : rate / RATE_FACTOR;
    else if (terms[KL] < 0.5f * DESIRED_KL) rate = rate * RATE_FACTOR > MAX_RATE ? MAX_RATE : rate * RATE_FACTOR;
  }
  const float step = state[0] + 1.0f;
  state[0] = step;
  state[1] = rate;
  const float scale = MAX_NORM / (norm + 1e-6f) < 1.0f ? MAX_NORM / (norm + 1e-6f) : 1.0f;
  const float change = (float)(rate / (1.0 - power(BETA1, (long)step))), spread = (float)__builtin_sqrt(1.0 - power(BETA2, (long)step));
  for (int p = 0; p < PIECES; first += piece_size[p], second += piece_size[p], p++) {
    float *restrict weight = parameters[p], *restrict m = first, *restrict v = second;
    const float* restrict gradient = gradients[p];
    for (long i = 0; i < piece_size[p]; i++) {
      const float g = gradient[i] * scale;
      m[i] = (float)BETA1 * m[i] + (float)(1.0 - BETA1) * g;
      v[i] = (float)BETA2 * v[i] + (float)(1.0 - BETA2) * g * g;
      weight[i] -= change * m[i] / (__builtin_sqrtf(v[i]) / spread + EPSILON);
    }
  }
}
