// A dense network: linear -> activation -> ... -> linear. One tile of rows at a time passes through all layers while it
// stays in the L2 cache.
//
// dense.py puts the constants of one network before this text: ACTIVATION, one of the three below; LAYERS;
// width[LAYERS + 1], input to output; PIECES, the weight matrices, of which several make up the last layer (heads),
// each with piece_layer and its rows there, piece_rows from piece_begin on; BATCH rows in TILES tiles of ROWS;
// OUT_STRIDE, from one row of the output, and of its gradient, to the next; CHUNKS; PARTIAL, PACKED and TILE_SPACE,
// sizes in floats; LD, the row stride of every activation tile.
//
// Results do not depend on the number of threads: one task sums each output element in a fixed order. Weight gradients
// are summed within CHUNKS runs of tiles, one partial gradient each; reduce() then adds these in order.

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

// The activation of x, and its derivative there, from h = activate(x).
#define TANH 0
#define ELU 1
#define RELU 2
#if ACTIVATION == TANH
INLINE vec activate(const vec x) { return tanh_vec(x); }
INLINE vec derivative(const vec h) { return (vec)(1.0f) - h * h; }
#elif ACTIVATION == ELU
INLINE vec activate(const vec x) { return elu_vec(x); }
INLINE vec derivative(const vec h) { return h > (vec)(0.0f) ? (vec)(1.0f) : h + (vec)(1.0f); }
#else
INLINE vec activate(const vec x) { return relu_vec(x); }
INLINE vec derivative(const vec h) { return h > (vec)(0.0f) ? (vec)(1.0f) : (vec)(0.0f); }
#endif

enum { LINEAR, ACTIVATE, DIFFERENTIATE };

// c (rows, n) = f(bias + a @ b), where f is nothing, the activation, or multiplication by its derivative at
// h = activate(...). b is packed.
NOINLINE void layer(float* restrict c, const float* restrict a, const float* restrict b, const float* restrict bias,
                    const float* restrict h, const long rows, const long depth, const long n, const int f) {
  for (long i = 0, step; i < rows; i += step) {
    for (long j = 0; j < n; j += PANEL)
      step = multiply_corner(c + i * LD + j, LD, bias + j, 0, a + i * LD, LD, 1, b + j * depth, PANEL, depth, rows - i, n - j);
    for (long r = i; r < i + step; r++) for (long j = 0; f != LINEAR && j < n; j += LANES) {
      float* y = c + r * LD + j;
      if (f == ACTIVATE) V(y) = activate(CV(y));
      else V(y) = CV(y) * derivative(CV(h + r * LD + j));
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

// Rows of an exact width, stride apart, into a tile, zero up to a multiple of PAD; and back.
NOINLINE void to_tile(float* restrict tile, const float* restrict x, const long rows, const long n, const long stride) {
  for (long i = 0; i < rows; i++) {
    for (long k = 0; k < n; k++) tile[i * LD + k] = x[i * stride + k];
    for (long k = n; k < padded(n); k++) tile[i * LD + k] = 0.0f;
  }
}
NOINLINE void from_tile(float* restrict x, const float* restrict tile, const long rows, const long n, const long stride) {
  for (long i = 0; i < rows; i++) for (long k = 0; k < n; k++) x[i * stride + k] = tile[i * LD + k];
}

INLINE long tile_rows(long tile) { return BATCH - tile * ROWS < ROWS ? BATCH - tile * ROWS : ROWS; }
INLINE float* reserve(float** space, long n) { float* p = *space; *space += n; return p; }
INLINE float* tile_space(float* scratch, int thread) { return scratch + PACKED + (long)thread * TILE_SPACE; }

// A layer's output row: which piece it is of, and where the piece's weights hold it.
INLINE int piece_of(int l, long row) {
  int p = l;
  while (p < PIECES - 1 && row >= piece_begin[p] + piece_rows[p] && piece_layer[p + 1] == l) p++;
  return p;
}

// Panels of 2 LANES outputs, or inputs, over all layers: task i is panel *j of the layer that is returned.
INLINE int panel_of(long i, const int of_inputs, long* j) {
  int l = 0;
  for (long count; i >= (count = panels(width[l + !of_inputs]) / PANEL); l++) i -= count;
  *j = i;
  return l;
}
INLINE long num_panels(const int of_inputs) {
  long count = 0;
  for (int l = 0; l < LAYERS; l++) count += panels(width[l + !of_inputs]) / PANEL;
  return count;
}

// Scratch of the forward pass: every layer's weights transposed in panels, for x @ w.T, and its biases; both are zero
// beyond the layer's width.
INLINE float* forward_weights(float* scratch, int layer, float** bias) {
  for (int l = 0; l < layer; l++) scratch += panels(width[l + 1]) * (width[l] + 1);
  *bias = scratch + panels(width[layer + 1]) * width[layer];
  return scratch;
}
NOINLINE void pack_transposed(float* scratch, float* const* weights, float* const* biases, long task) {
  long j;
  float* bias;
  const int l = panel_of(task, 0, &j);
  float* restrict packed = forward_weights(scratch, l, &bias) + j * PANEL * width[l];
  const float* from[PANEL];
  for (long r = 0; r < PANEL; r++) {
    const long row = j * PANEL + r;
    const int p = row < width[l + 1] ? piece_of(l, row) : -1;
    from[r] = p < 0 ? 0 : weights[p] + (row - piece_begin[p]) * width[l];
    bias[row] = p < 0 ? 0.0f : biases[p][row - piece_begin[p]];
  }
  for (long k = 0; k < width[l]; k += 16) {  // 16 columns at a time: what they are written to fits the nearest cache
    const long end = k + 16 < width[l] ? k + 16 : width[l];
    for (long r = 0; r < PANEL; r++) {
      if (from[r]) for (long i = k; i < end; i++) packed[i * PANEL + r] = from[r][i];
      else for (long i = k; i < end; i++) packed[i * PANEL + r] = 0.0f;
    }
  }
}

// Scratch of the backward pass: every layer's weights in panels, not transposed, for g @ w. The first layer's weights
// are not needed.
INLINE float* backward_weights(float* scratch, int layer) {
  for (int l = 0; l < layer; l++) scratch += panels(width[l]) * width[l + 1];
  return scratch;
}
NOINLINE void pack(float* scratch, float* const* weights, long task) {
  long j;
  const int l = panel_of(task, 1, &j);
  if (l == 0) return;
  float* restrict packed = backward_weights(scratch, l) + j * PANEL * width[l + 1];
  const long columns = width[l] - j * PANEL < PANEL ? width[l] - j * PANEL : PANEL;
  for (long r = 0; r < width[l + 1]; r++) {
    const int p = piece_of(l, r);
    const float* restrict row = weights[p] + (r - piece_begin[p]) * width[l] + j * PANEL;
    for (long k = 0; k < columns; k++) packed[r * PANEL + k] = row[k];
    for (long k = columns; k < PANEL; k++) packed[r * PANEL + k] = 0.0f;
  }
}

// Computes rows of out (BATCH, width[LAYERS]) from rows of x (BATCH, width[0]). Hidden activations go to saved
// (TILES, LAYERS - 1, ROWS, LD) unless it is null.
INLINE void forward_tile(float* out, float* saved, float* scratch, const float* x, long t, int thread) {
  float* space = tile_space(scratch, thread);
  float* const tiles[2] = {reserve(&space, ROWS * LD), reserve(&space, ROWS * LD)};
  float *a = tiles[0], *bias;
  to_tile(a, x + t * ROWS * width[0], tile_rows(t), width[0], width[0]);
  for (int l = 0; l < LAYERS; l++) {
    float* c = saved && l < LAYERS - 1 ? saved + (t * (LAYERS - 1) + l) * ROWS * LD : tiles[a == tiles[0]];
    const float* packed = forward_weights(scratch, l, &bias);
    layer(c, a, packed, bias, 0, tile_rows(t), width[l], padded(width[l + 1]), l < LAYERS - 1 ? ACTIVATE : LINEAR);
    a = c;
  }
  from_tile(out + t * ROWS * OUT_STRIDE, a, tile_rows(t), width[LAYERS], OUT_STRIDE);
}

// Computes one partial gradient from the output's gradient g (BATCH, width[LAYERS]): layer by layer, weights
// (out, padded(in)), then biases padded(out).
INLINE void backward_chunk(float* partial, float* scratch, const float* g, const float* x, const float* saved, long chunk, int thread) {
  float *space = tile_space(scratch, thread), *const zero = reserve(&space, LD);
  float *const input = reserve(&space, ROWS * LD), *const tiles[2] = {reserve(&space, ROWS * LD), reserve(&space, ROWS * LD)};
  fill_zero(zero, LD);
  fill_zero(partial, PARTIAL);
  for (long t = chunk * TILES / CHUNKS; t < (chunk + 1) * TILES / CHUNKS; t++) {
    const long rows = tile_rows(t);
    float *d = tiles[0], *end = partial + PARTIAL;
    to_tile(d, g + t * ROWS * OUT_STRIDE, rows, width[LAYERS], OUT_STRIDE);
    to_tile(input, x + t * ROWS * width[0], rows, width[0], width[0]);
    for (int l = LAYERS - 1; l >= 0; l--) {
      const float* a = l ? saved + (t * (LAYERS - 1) + l - 1) * ROWS * LD : input;
      add_column_sums(end -= padded(width[l + 1]), d, rows, padded(width[l + 1]));
      add_weight_gradient(end -= width[l + 1] * padded(width[l]), d, a, rows, width[l + 1], padded(width[l]));
      if (l > 0) {
        float* c = tiles[d == tiles[0]];
        layer(c, d, backward_weights(scratch, l), zero, a, rows, width[l + 1], padded(width[l]), DIFFERENTIATE);
        d = c;
      }
    }
  }
}

// One panel of a layer's outputs: gradients of their weights and biases, the sum over partials (CHUNKS, PARTIAL) in order.
NOINLINE void reduce_panel(float* const* d_weights, float* const* d_biases, const float* partials, long task) {
  long j;
  const int l = panel_of(task, 0, &j);
  for (int i = 0; i < l; i++) partials += width[i + 1] * padded(width[i]) + padded(width[i + 1]);
  for (long row = j * PANEL; row < (j + 1) * PANEL && row < width[l + 1]; row++) {
    const int p = piece_of(l, row);
    float* restrict w = d_weights[p] + (row - piece_begin[p]) * width[l];
    const float* restrict from = partials + row * padded(width[l]);
    for (long k = 0; k < width[l]; k++) w[k] = from[k];
    for (long c = 1; c < CHUNKS; c++) for (long k = 0; k < width[l]; k++) w[k] += from[c * PARTIAL + k];
    const float* bias = partials + width[l + 1] * padded(width[l]) + row;
    float sum = bias[0];
    for (long c = 1; c < CHUNKS; c++) sum += bias[c * PARTIAL];
    d_biases[p][row - piece_begin[p]] = sum;
  }
}

// The kernels. Buffers in order, outputs first; WEIGHTS stands for every piece's weights, BIASES for their biases.

// out, scratch, x, WEIGHTS, BIASES
static void pack_inference(float* const* b, long i, int thread) { pack_transposed(b[1], b + 3, b + 3 + PIECES, i); }
static void infer_tile(float* const* b, long i, int thread) { forward_tile(b[0], 0, b[1], b[2], i, thread); }
static void inference(float* const* b, Pool* pool) {
  run(pool, pack_inference, b, num_panels(0));
  run(pool, infer_tile, b, TILES);
}

// out, scratch, x, WEIGHTS, BIASES, saved
static void train_tile(float* const* b, long i, int thread) { forward_tile(b[0], b[3 + 2 * PIECES], b[1], b[2], i, thread); }
static void forward(float* const* b, Pool* pool) {
  run(pool, pack_inference, b, num_panels(0));
  run(pool, train_tile, b, TILES);
}

// gradients of WEIGHTS, gradients of BIASES, partials, scratch, gradient of out, x, saved, WEIGHTS
static void pack_backward(float* const* b, long i, int thread) { pack(b[2 * PIECES + 1], b + 2 * PIECES + 5, i); }
static void add_chunk(float* const* b, long i, int thread) {
  b += 2 * PIECES;
  backward_chunk(b[0] + i * PARTIAL, b[1], b[2], b[3], b[4], i, thread);
}
static void add_partials(float* const* b, long i, int thread) { reduce_panel(b, b + PIECES, b[2 * PIECES], i); }
static void backward(float* const* b, Pool* pool) {
  run(pool, pack_backward, b, num_panels(1));
  run(pool, add_chunk, b, CHUNKS);
  run(pool, add_partials, b, num_panels(0));
}
