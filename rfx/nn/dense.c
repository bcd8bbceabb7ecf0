// A dense network, linear -> tanh -> ... -> linear, a tile of rows at a time through all layers while it stays in the L2 cache.
//
// dense.py puts the constants of one network before this text: LAYERS; width[LAYERS + 1], input to output; PIECES, the weight matrices, of
// which several make up the last layer (heads), each with piece_layer and its rows there, piece_rows from piece_begin on; BATCH rows in
// TILES tiles of ROWS; THREADS; CHUNKS; PARTIAL and SCRATCH, sizes in floats; LD, the row stride of every activation tile.
//
// Results do not depend on THREADS: each output element is summed by one thread in one order. Weight gradients are summed within CHUNKS
// runs of tiles, one partial gradient each, which reduce() then adds in order.

#if LANES == 8
#define MAIN_ROWS 6    // 6 x 2 accumulators, 2 of b and a broadcast, of AVX2's 16 registers
#define SMALL_ROWS 2
#else
#define MAIN_ROWS 12   // 12 x 2 accumulators, 2 of b and a broadcast, of AVX-512's and NEON's 32
#define SMALL_ROWS 4
#endif
#define PANEL (2 * LANES)
#define PAD 16         // rows of tiles and partial gradients are zero up to a multiple of this, whatever LANES is

INLINE long padded(long n) { return (n + PAD - 1) / PAD * PAD; }
INLINE long panels(long n) { return (n + PANEL - 1) / PANEL * PANEL; }

// c[i][j] = start + sum over k of a[i * a_row + k * a_column] * b[k][j], for rows x vecs registers of c.
INLINE void multiply_block(float* c, const long c_row, const float* start, const long start_row,
                           const float* restrict a, const long a_row, const long a_column,
                           const float* restrict b, const long b_row, const long depth, const int rows, const int vecs) {
  vec sum[MAIN_ROWS][2];
  for (int i = 0; i < rows; i++) for (int j = 0; j < vecs; j++) sum[i][j] = CV(start + i * start_row + j * LANES);
  for (long k = 0; k < depth; k++) {
    vec right[2];
    for (int j = 0; j < vecs; j++) right[j] = CV(b + k * b_row + j * LANES);
    for (int i = 0; i < rows; i++) {
      const vec left = (vec)(a[i * a_row + k * a_column]);
      for (int j = 0; j < vecs; j++) sum[i][j] += left * right[j];
    }
  }
  for (int i = 0; i < rows; i++) for (int j = 0; j < vecs; j++) V(c + i * c_row + j * LANES) = sum[i][j];
}

// The same for the largest block that fits into m rows and n columns, a multiple of LANES. Returns its rows.
INLINE long multiply_corner(float* c, const long c_row, const float* start, const long start_row, const float* a, const long a_row,
                            const long a_column, const float* b, const long b_row, const long depth, const long m, const long n) {
#define BLOCK(rows, vecs) multiply_block(c, c_row, start, start_row, a, a_row, a_column, b, b_row, depth, rows, vecs)
#define WIDEST_BLOCK(rows) if (n >= PANEL) BLOCK(rows, 2); else BLOCK(rows, 1); return rows
  if (m >= MAIN_ROWS) { WIDEST_BLOCK(MAIN_ROWS); }
  if (m >= SMALL_ROWS) { WIDEST_BLOCK(SMALL_ROWS); }
  WIDEST_BLOCK(1);
}

enum { LINEAR, TANH, TANH_GRADIENT };

// c (rows, n) = f(bias + a @ b), where f is nothing, tanh, or multiplication by tanh's derivative at h = tanh(...). b is packed.
NOINLINE void layer(float* restrict c, const float* restrict a, const float* restrict b, const float* restrict bias,
                    const float* restrict h, const long rows, const long depth, const long n, const int f) {
  for (long i = 0, step; i < rows; i += step) {
    for (long j = 0; j < n; j += PANEL)
      step = multiply_corner(c + i * LD + j, LD, bias + j, 0, a + i * LD, LD, 1, b + j * depth, PANEL, depth, rows - i, n - j);
    for (long r = i; r < i + step; r++) for (long j = 0; f != LINEAR && j < n; j += LANES) {
      float* y = c + r * LD + j;
      if (f == TANH) V(y) = tanh_vec(CV(y));
      else V(y) = CV(y) * ((vec)(1.0f) - CV(h + r * LD + j) * CV(h + r * LD + j));
    }
  }
}

// c (m, n) += g (rows, m) transposed @ a (rows, n).
NOINLINE void add_weight_gradient(float* restrict c, const float* restrict g, const float* restrict a,
                                  const long rows, const long m, const long n) {
  for (long j = 0; j < n; j += PANEL) for (long i = 0; i < m;)
    i += multiply_corner(c + i * n + j, n, c + i * n + j, n, g + i, 1, LD, a + j, LD, rows, m - i, n - j);
}

// sums (n,) += column sums of g (rows, n).
NOINLINE void add_column_sums(float* restrict sums, const float* restrict g, const long rows, const long n) {
  for (long j = 0; j < n; j += LANES) {
    vec sum = V(sums + j);
    for (long i = 0; i < rows; i++) sum += CV(g + i * LD + j);
    V(sums + j) = sum;
  }
}

NOINLINE void fill_zero(float* restrict p, long n) { for (long i = 0; i < n; i++) p[i] = 0.0f; }

// Rows of an exact width into a tile, zero up to a multiple of PAD; and back.
NOINLINE void to_tile(float* restrict tile, const float* restrict x, const long rows, const long n) {
  for (long i = 0; i < rows; i++) {
    for (long k = 0; k < n; k++) tile[i * LD + k] = x[i * n + k];
    for (long k = n; k < padded(n); k++) tile[i * LD + k] = 0.0f;
  }
}
NOINLINE void from_tile(float* restrict x, const float* restrict tile, const long rows, const long n) {
  for (long i = 0; i < rows; i++) for (long k = 0; k < n; k++) x[i * n + k] = tile[i * LD + k];
}

// Panels of w transposed, for x @ w.T: w (rows, depth) are rows `begin` onwards of a layer's weights.
NOINLINE void pack_transposed(float* restrict packed, const float* restrict w, const long begin, const long rows, const long depth) {
  for (long r = 0; r < rows; r++) {
    float* column = packed + (begin + r) / PANEL * PANEL * depth + (begin + r) % PANEL;
    for (long k = 0; k < depth; k++) column[k * PANEL] = w[r * depth + k];
  }
}
// Panels of w as it is, for g @ w; depth is the number of rows of the whole layer.
NOINLINE void pack(float* restrict packed, const float* restrict w, const long begin, const long rows, const long columns,
                   const long depth) {
  for (long r = 0; r < rows; r++) for (long j = 0; j < columns; j += PANEL) {
    float* row = packed + j * depth + (begin + r) * PANEL;
    for (long k = j; k < columns && k < j + PANEL; k++) row[k - j] = w[r * columns + k];
  }
}

INLINE long tile_rows(long tile) { return BATCH - tile * ROWS < ROWS ? BATCH - tile * ROWS : ROWS; }

// Scratch of one thread starts here; `reserve` hands out pieces of it.
INLINE float* scratch_of(float* scratch, int thread) {
  return (float*)(((unsigned long long)(scratch + thread * (long)SCRATCH) + 63) & ~63ull);  // on a cache line
}
INLINE float* reserve(float** space, long n) { float* p = *space; *space += n; return p; }

// out (BATCH, width[LAYERS]) from x (BATCH, width[0]); hidden activations go to saved (TILES, LAYERS - 1, ROWS, LD) unless it is null.
INLINE void forward_tiles(float* out, float* saved, float* space, const float* x, float* const* weights, float* const* biases, int thread) {
  float *packed[LAYERS], *bias[LAYERS];
  for (int l = 0; l < LAYERS; l++) {
    packed[l] = reserve(&space, panels(width[l + 1]) * width[l]);
    bias[l] = reserve(&space, panels(width[l + 1]));
    fill_zero(packed[l], panels(width[l + 1]) * (width[l] + 1));
  }
  for (int p = 0; p < PIECES; p++) {
    const int l = piece_layer[p];
    pack_transposed(packed[l], weights[p], piece_begin[p], piece_rows[p], width[l]);
    for (int r = 0; r < piece_rows[p]; r++) bias[l][piece_begin[p] + r] = biases[p][r];
  }
  float* const tiles[2] = {reserve(&space, ROWS * LD), reserve(&space, ROWS * LD)};
  for (long t = thread; t < TILES; t += THREADS) {
    float* a = tiles[0];
    to_tile(a, x + t * ROWS * width[0], tile_rows(t), width[0]);
    for (int l = 0; l < LAYERS; l++) {
      float* c = saved && l < LAYERS - 1 ? saved + (t * (LAYERS - 1) + l) * ROWS * LD : tiles[a == tiles[0]];
      layer(c, a, packed[l], bias[l], 0, tile_rows(t), width[l], padded(width[l + 1]), l < LAYERS - 1 ? TANH : LINEAR);
      a = c;
    }
    from_tile(out + t * ROWS * width[LAYERS], a, tile_rows(t), width[LAYERS]);
  }
}

// From the gradient g (BATCH, width[LAYERS]) of the output: partial gradients of weights and biases (CHUNKS, PARTIAL), unless null, and
// of the input dx (BATCH, width[0]), unless null. One partial holds, layer by layer, weights (out, padded(in)), then biases padded(out).
INLINE void backward_tiles(float* partials, float* dx, float* space, const float* g, const float* x, const float* saved,
                           float* const* weights, int thread) {
  float *packed[LAYERS], *zero = reserve(&space, LD);
  fill_zero(zero, LD);
  for (int l = 0; l < LAYERS; l++) {
    packed[l] = reserve(&space, panels(width[l]) * width[l + 1]);
    fill_zero(packed[l], panels(width[l]) * width[l + 1]);
  }
  for (int p = 0; p < PIECES; p++) {
    const int l = piece_layer[p];
    if (l > 0 || dx) pack(packed[l], weights[p], piece_begin[p], piece_rows[p], width[l], width[l + 1]);
  }
  float *const input = reserve(&space, ROWS * LD), *const tiles[2] = {reserve(&space, ROWS * LD), reserve(&space, ROWS * LD)};
  for (long chunk = thread; chunk < CHUNKS; chunk += THREADS) {
    float* const partial = partials + chunk * PARTIAL;
    if (partials) fill_zero(partial, PARTIAL);
    for (long t = chunk * TILES / CHUNKS; t < (chunk + 1) * TILES / CHUNKS; t++) {
      const long rows = tile_rows(t);
      float *d = tiles[0], *end = partial + PARTIAL;
      to_tile(d, g + t * ROWS * width[LAYERS], rows, width[LAYERS]);
      if (partials) to_tile(input, x + t * ROWS * width[0], rows, width[0]);
      for (int l = LAYERS - 1; l >= 0; l--) {
        const float* a = l ? saved + (t * (LAYERS - 1) + l - 1) * ROWS * LD : input;
        if (partials) {
          add_column_sums(end -= padded(width[l + 1]), d, rows, padded(width[l + 1]));
          add_weight_gradient(end -= width[l + 1] * padded(width[l]), d, a, rows, width[l + 1], padded(width[l]));
        }
        if (l > 0 || dx) {
          float* c = tiles[d == tiles[0]];
          layer(c, d, packed[l], zero, a, rows, width[l + 1], padded(width[l]), l ? TANH_GRADIENT : LINEAR);
          d = c;
        }
      }
      if (dx) from_tile(dx + t * ROWS * width[0], d, rows, width[0]);
    }
  }
}

// The kernels. Buffers in order, outputs first; WEIGHTS stands for every piece's weights, BIASES for their biases.

// out, saved, scratch, x, WEIGHTS, BIASES
INLINE void forward(float* const* b, int thread) {
  forward_tiles(b[0], b[1], scratch_of(b[2], thread), b[3], b + 4, b + 4 + PIECES, thread);
}

// out, scratch, x, WEIGHTS, BIASES
INLINE void inference(float* const* b, int thread) {
  forward_tiles(b[0], 0, scratch_of(b[1], thread), b[2], b + 3, b + 3 + PIECES, thread);
}

// partials, scratch, gradient of out, x, saved, WEIGHTS
INLINE void backward(float* const* b, int thread) {
  backward_tiles(b[0], 0, scratch_of(b[1], thread), b[2], b[3], b[4], b + 5, thread);
}

// gradient of x, scratch, gradient of out, saved, WEIGHTS
INLINE void input_gradient(float* const* b, int thread) {
  backward_tiles(0, b[0], scratch_of(b[1], thread), b[2], 0, b[3], b + 4, thread);
}

// gradients of WEIGHTS, gradients of BIASES, partials: the sum over partials, in order.
INLINE void reduce(float* const* b, int thread) {
  for (int p = 0; p < PIECES; p++) {
    const float* partials = b[2 * PIECES];
    for (int l = 0; l < piece_layer[p]; l++) partials += width[l + 1] * padded(width[l]) + padded(width[l + 1]);
    const long in = width[piece_layer[p]], bias = width[piece_layer[p] + 1] * padded(in) + piece_begin[p];
    for (long r = 0; r < piece_rows[p]; r++) {
      float* restrict w = b[p] + r * in;
      const float* restrict from = partials + (piece_begin[p] + r) * padded(in);
      for (long k = 0; k < in; k++) w[k] = from[k];
      for (long c = 1; c < CHUNKS; c++) for (long k = 0; k < in; k++) w[k] += from[c * PARTIAL + k];
      float sum = partials[bias + r];
      for (long c = 1; c < CHUNKS; c++) sum += partials[c * PARTIAL + bias + r];
      b[PIECES + p][r] = sum;
    }
  }
}
