// Adam (Kingma and Ba 2015) on all parameters in one pass, with the gradient's global norm clipped and the learning rate led by the KL.
//
// optimizer.py puts before this text, after vector.c: PIECES, piece_size[PIECES], BLOCKS, MAX_NORM, DESIRED_KL (negative: a fixed learning
// rate), the other upper-case constants, and TERMS. Buffers: the parameters; first and second moments, all pieces after each other;
// state [step, learning rate]; sums (TERMS + 1); the gradients; terms (TERMS) of the loss, the KL at KL and the loss itself last; and
// BLOCKS + 1 doubles to work in. A task takes one block, BLOCK parameters of one piece or what is left of it.
// sums gains the terms without the loss, the gradient norm and 0 - or, when loss or norm is not finite, just 1 in its last place, and
// nothing else changes.

INLINE int finite(float x) { return x - x == 0.0f; }
INLINE double power(double base, long exponent) {
  double result = 1.0;
  for (; exponent; exponent >>= 1, base *= base) if (exponent & 1) result *= base;
  return result;
}


// The piece that a block is of, where its parameters begin and end there, and *before, how many parameters are in the pieces before it.
INLINE int piece_of_block(long block, long* begin, long* end, long* before) {
  int p = 0;
  *before = 0;
  for (long count; block >= (count = (piece_size[p] + BLOCK - 1) / BLOCK); p++) {
    block -= count;
    *before += piece_size[p];
  }
  *begin = block * BLOCK;
  *end = *begin + BLOCK < piece_size[p] ? *begin + BLOCK : piece_size[p];
  return p;
}
INLINE double* space(float* const* b) { return (double*)b[2 * PIECES + 5]; }

static void add_squares(float* const* b, long block, int thread) {
  long i, end, before;
  const float* gradient = b[PIECES + 4 + piece_of_block(block, &i, &end, &before)];
  vec sum = (vec)(0.0f);
  double square = 0.0;
  for (; i + LANES <= end; i += LANES) sum += CV(gradient + i) * CV(gradient + i);
  for (int lane = 0; lane < LANES; lane++) square += sum[lane];
  for (; i < end; i++) square += (double)gradient[i] * gradient[i];
  space(b)[1 + block] = square;
}

static void change_weights(float* const* b, long block, int thread) {
  long begin, end, before;
  const int p = piece_of_block(block, &begin, &end, &before);
  const float* restrict gradient = b[PIECES + 4 + p];
  float *restrict weight = b[p], *restrict m = b[PIECES] + before, *restrict v = b[PIECES + 1] + before;
  const float scale = (float)space(b)[0], step = b[PIECES + 2][0], rate = b[PIECES + 2][1];
  const float change = (float)(rate / (1.0 - power(BETA1, (long)step))), spread = (float)__builtin_sqrt(1.0 - power(BETA2, (long)step));
  for (long i = begin; i < end; i++) {
    const float g = gradient[i] * scale;
    m[i] = (float)BETA1 * m[i] + (float)(1.0 - BETA1) * g;
    v[i] = (float)BETA2 * v[i] + (float)(1.0 - BETA2) * g * g;
    weight[i] -= change * m[i] / (__builtin_sqrtf(v[i]) / spread + EPSILON);
  }
}

static void adam(float* const* b, Pool* pool) {
  float *state = b[PIECES + 2], *sums = b[PIECES + 3];
  const float* terms = b[2 * PIECES + 4];
  double square = 0.0;
  run(pool, add_squares, b, BLOCKS);
  for (long block = 0; block < BLOCKS; block++) square += space(b)[1 + block];
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
  state[0] += 1.0f;
  state[1] = rate;
  space(b)[0] = MAX_NORM / (norm + 1e-6f) < 1.0f ? MAX_NORM / (norm + 1e-6f) : 1.0f;
  run(pool, change_weights, b, BLOCKS);
}
