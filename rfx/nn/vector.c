// The vectors of our kernels, as wide as the compiling machine supports, and functions of vectors.

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else  // NEON; clang makes do where there is no such unit
#define LANES 4
#endif
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))

typedef float vec __attribute__((ext_vector_type(LANES), aligned(4)));
typedef int ivec __attribute__((ext_vector_type(LANES), aligned(4)));
#define V(p) (*(vec*)(p))
#define CV(p) (*(const vec*)(p))

// tanh by x P(x^2) / Q(x^2), a minimax fit of our own on |x| <= 9; absolute error below 4e-7, exactly odd, NaN stays NaN.
INLINE vec tanh_vec(vec x) {
  const vec limit = (vec)(9.0f), one = (vec)(1.0f);
  x = x > limit ? limit : x < -limit ? -limit : x;
  const vec s = x * x;
  const vec p = ((((vec)(1.3354617e-08f) * s + 2.06090481e-05f) * s + 0.00349558587f) * s + 0.133810237f) * s + 1.0f;
  const vec q = ((((vec)(7.77653952e-07f) * s + 0.000328563125f) * s + 0.0258769747f) * s + 0.467143387f) * s + 1.0f;
  const vec y = x * p / q;
  return y > one ? one : y < -one ? -one : y;
}

// exp by 2^n P(r), where x = n ln 2 + r: relative error below 3e-7; infinity above 88.3, zero below -87.3, NaN stays NaN.
INLINE vec exp_vec(const vec x) {
  const vec low = (vec)(-87.3f), high = (vec)(88.3f);
  vec clamped = x > high ? high : x;
  clamped = clamped < low ? low : clamped;
  const vec scaled = clamped * 1.44269504f;
  const ivec n = __builtin_convertvector(scaled + (scaled < (vec)(0.0f) ? (vec)(-0.5f) : (vec)(0.5f)), ivec);
  const vec whole = __builtin_convertvector(n, vec);
  const vec r = (clamped - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts, as in Cephes
  const vec p = (((((vec)(1.0f / 720.0f) * r + 1.0f / 120.0f) * r + 1.0f / 24.0f) * r + 1.0f / 6.0f) * r + 0.5f) * r * r + r + 1.0f;
  const vec y = p * (vec)((n + 127) << 23);
  return x > high ? (vec)(__builtin_inff()) : x < low ? (vec)(0.0f) : y;
}

// max(x, 0), and ELU, max(x, 0) + exp(min(x, 0)) - 1: absolute error below 4e-7. Of both, NaN stays NaN.
INLINE vec relu_vec(const vec x) { return x < (vec)(0.0f) ? (vec)(0.0f) : x; }
INLINE vec elu_vec(const vec x) { return x > (vec)(0.0f) ? x : exp_vec(x) - (vec)(1.0f); }
