// Kernels that make one pass over memory where PyTorch makes several. kernels.py compiles them on
// the machine itself. Activations are (B, H, W, N) in memory, of Half or float, and are read and
// written 16 bytes at a time. No header is included, so that none has to be found.

struct Half { unsigned short bits; };

__device__ float wide(float x) { return x; }
__device__ float wide(Half x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

template <class T> __device__ T narrow(float x);
template <> __device__ float narrow<float>(float x) { return x; }
template <> __device__ Half narrow<Half>(float x) {
  Half y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

template <class T> struct __align__(16) Pack { T at[16 / sizeof(T)]; };

__device__ float4 operator-(float4 a, float4 b) {
  return make_float4(a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w);
}
__device__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

__device__ float sum_of_warp(float x) {
  for (int o = 16; o; o /= 2) x += __shfl_xor_sync(~0u, x, o);
  return x;
}
__device__ float largest_of_warp(float x) {
  for (int o = 16; o; o /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, o));
  return x;
}

// Average pooling: x (B, H, W, N) -> y (B, H/2, W/2, N). packs: packs per position. n: packs of y.
template <class T>
__global__ void pool(const Pack<T>* __restrict__ x, Pack<T>* __restrict__ y, int W, int packs,
                     int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int c = i % packs, p = i / packs, w = p % (W / 2), row = p / (W / 2);
  const Pack<T>* at = x + (2ll * row * W + 2 * w) * packs + c;
  Pack<T> a = at[0], b = at[packs], d = at[(long long)W * packs], e = at[(W + 1ll) * packs], out;
  for (int k = 0; k < 16 / sizeof(T); ++k)
    out.at[k] = narrow<T>(
        0.25f * ((wide(a.at[k]) + wide(b.at[k])) + (wide(d.at[k]) + wide(e.at[k]))));
  y[i] = out;
}

// The adjoints of average pooling and of the ReLU before it, at the rectified x (B, H, W, N):
// gradient (B, H/2, W/2, N) -> back (B, H, W, N). packs: packs per position. n: packs of gradient.
template <class T>
__global__ void relu_pool_backward(
    const Pack<T>* __restrict__ x, const Pack<T>* __restrict__ gradient, Pack<T>* __restrict__ back,
    int W, int packs, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int c = i % packs, p = i / packs, w = p % (W / 2), row = p / (W / 2);
  long long first = (2ll * row * W + 2 * w) * packs + c;
  long long corners[4] = {first, first + packs, first + (long long)W * packs,
                          first + (W + 1ll) * packs};
  Pack<T> g = gradient[i], F[4];
  for (int j = 0; j < 4; ++j) F[j] = x[corners[j]];
  for (int k = 0; k < 16 / sizeof(T); ++k) g.at[k] = narrow<T>(0.25f * wide(g.at[k]));
  for (int j = 0; j < 4; ++j) {
    Pack<T> out;
    for (int k = 0; k < 16 / sizeof(T); ++k)
      out.at[k] = wide(F[j].at[k]) > 0 ? g.at[k] : narrow<T>(0);
    back[corners[j]] = out;
  }
}

__device__ void multiply(float* c, unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                         unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ unsigned word(uint4 v, int k) {
  return k == 0 ? v.x : k == 1 ? v.y : k == 2 ? v.z : v.w;
}

// Adds low and high to the two values packed in gradient, and zeroes those where F is 0.
__device__ unsigned add_and_rectify(unsigned F, unsigned gradient, float low, float high) {
  Half g0 = {(unsigned short)gradient}, g1 = {(unsigned short)(gradient >> 16)};
  unsigned out0 = narrow<Half>(wide(g0) + low).bits, out1 = narrow<Half>(wide(g1) + high).bits;
  // F is never negative, so it is positive where any bit but the sign is set.
  return (F & 0x7fffu ? out0 : 0u) | (F & 0x7fff0000u ? out1 << 16 : 0u);
}

// gradient = gradient + F D where F > 0, else 0: the backward pass of the style loss (equation 6)
// and of the ReLU. F, gradient: (B, M, N) of Half, 8 in a uint4. D: (B, N, N), symmetric, weights
// included. A warp takes 16 positions at a time and a block 128, ``tiles`` times.
//
// A sum may be taken in any order, so it does not matter which columns of a row a lane holds, as
// long as F and D agree. Lane 4 r + q holds columns 32 t + 8 q ... + 7 of rows r and r + 8. It can
// then read 16 bytes at once, and its results are in the same columns as the F that it holds.
template <int N>
__global__ void __launch_bounds__(256)
    style_backward(const uint4* __restrict__ F, const uint4* __restrict__ D,
                   uint4* __restrict__ gradient, int M, int tiles) {
  constexpr int ROW = N + 32;  // 64 bytes more than a multiple of all banks: no bank conflicts
  constexpr int PARTS = N / 32;
  __shared__ __align__(16) unsigned short d[N * ROW];
  for (int i = threadIdx.x; i < N * N / 8; i += blockDim.x)
    *(uint4*)&d[i / (N / 8) * ROW + i % (N / 8) * 8] = D[blockIdx.y * (N * N / 8ll) + i];
  __syncthreads();
  int lane = threadIdx.x % 32, q = lane % 4, r = lane / 4;
  for (int tile = 0; tile < tiles; ++tile) {
    int m = (blockIdx.x * tiles + tile) * 128 + threadIdx.x / 32 * 16 + r;
    uint4 f[2][PARTS];
    for (int h = 0; h < 2; ++h)
      #pragma unroll
      for (int t = 0; t < PARTS; ++t)
        f[h][t] = m + 8 * h < M
            ? F[((long long)blockIdx.y * M + m + 8 * h) * (N / 8) + 4 * t + q]
            : make_uint4(0, 0, 0, 0);
    #pragma unroll
    for (int u = 0; u < PARTS; ++u) {
      float sums[4][4] = {};
      #pragma unroll
      for (int t = 0; t < PARTS; ++t)
        #pragma unroll
        for (int j = 0; j < 4; ++j) {
          int n = 32 * u + r / 2 * 8 + 2 * j + r % 2;
          uint4 b = *(const uint4*)&d[n * ROW + 32 * t + 8 * q];
          multiply(sums[j], f[0][t].x, f[1][t].x, f[0][t].y, f[1][t].y, b.x, b.y);
          multiply(sums[j], f[0][t].z, f[1][t].z, f[0][t].w, f[1][t].w, b.z, b.w);
        }
      #pragma unroll
      for (int h = 0; h < 2; ++h)
        if (m + 8 * h < M) {
          uint4* at = gradient + ((long long)blockIdx.y * M + m + 8 * h) * (N / 8) + 4 * u + q;
          uint4 g = *at;
          unsigned out[4];
          #pragma unroll
          for (int j = 0; j < 4; ++j)
            out[j] = add_and_rectify(
                word(f[h][u], j), word(g, j), sums[j][2 * h], sums[j][2 * h + 1]);
          *at = make_uint4(out[0], out[1], out[2], out[3]);
        }
    }
  }
}

// Images (B, 3, H, W) of float -> the network's input (B, H, W, C); channels after the third are 0.
template <class T, int C>
__global__ void enter_network(
    const float* __restrict__ images, const float* __restrict__ mean,
    const float* __restrict__ std, T* __restrict__ out, int pixels) {
  int p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= pixels) return;
  T values[C];
  for (int c = 0; c < C; ++c)
    values[c] = narrow<T>(
        c < 3 ? (images[(blockIdx.y * 3ll + c) * pixels + p] - mean[c]) / std[c] : 0);
  T* at = out + ((long long)blockIdx.y * pixels + p) * C;
  if (sizeof(values) == 16)
    *(uint4*)at = *(uint4*)values;
  else
    for (int c = 0; c < C; ++c) at[c] = values[c];
}

// The gradient at the network's input (B, H, W, C), times scale (B,) -> the gradient at the images
// (B, 3, H, W). largest (B,): raised to the largest magnitude in it, as the bits of a float.
template <class T, int C>
__global__ void leave_network(
    const T* __restrict__ gradient, const float* __restrict__ scale,
    const float* __restrict__ std, float* __restrict__ out, unsigned* largest, int pixels) {
  int p = blockIdx.x * blockDim.x + threadIdx.x, slot = blockIdx.y;
  unsigned most = 0;
  if (p < pixels)
    for (int c = 0; c < 3; ++c) {
      float g = wide(gradient[((long long)slot * pixels + p) * C + c]) * scale[slot] / std[c];
      out[(slot * 3ll + c) * pixels + p] = g;
      most = max(most, __float_as_uint(fabsf(g)));
    }
  // Compared as whole numbers, which have the same order, with NaN above everything else.
  for (int o = 16; o; o /= 2) most = max(most, __shfl_xor_sync(~0u, most, o));
  if (threadIdx.x % 32 == 0) atomicMax(largest + slot, most);
}

// Spectra (B, 3, n) times the matrix of each frequency's ring. rings: the matrices (B, count, 3, 3).
// ring (n,): the index of each frequency's ring.
__global__ void by_ring(const float2* __restrict__ seen, const float* __restrict__ rings,
                        const long long* __restrict__ ring, float2* __restrict__ moved, int count,
                        int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, slot = blockIdx.y;
  if (i >= n) return;
  const float* R = rings + ((long long)slot * count + ring[i]) * 9;
  const float2* at = seen + slot * 3ll * n + i;
  float2 u = at[0], v = at[n], w = at[2ll * n];
  for (int c = 0; c < 3; ++c)
    moved[(slot * 3ll + c) * n + i] = make_float2(
        R[3 * c] * u.x + R[3 * c + 1] * v.x + R[3 * c + 2] * w.x,
        R[3 * c] * u.y + R[3 * c + 1] * v.y + R[3 * c + 2] * w.y);
}

// L-BFGS: store the evaluation where ``accept``, and multiply the kept vectors by y and g.
//
// basis: (2 ROWS + 1, B, D), the s_i, the P y_i and P g. differences: (2, B, D), y and g. accepted,
// x, gradient, Pg: (B, D). rows (B,): the row of the history that s and P y are written to. D:
// counted in float4. sums: for each slot and warp basis . y, basis . g, s . s, y . y, and the
// largest |P g|.
template <int ROWS>
__global__ void __launch_bounds__(128) remember(
    float4* __restrict__ basis, float4* __restrict__ differences, float4* __restrict__ accepted,
    const float4* __restrict__ x, const float4* __restrict__ gradient,
    const float4* __restrict__ Pg, const bool* __restrict__ accept,
    const long long* __restrict__ rows, float* __restrict__ sums, int D) {
  constexpr int K = 2 * ROWS + 1;
  int slot = blockIdx.y, row = rows[slot], B = gridDim.y;
  bool take = accept[slot];
  float with_y[K] = {}, with_g[K] = {}, ss = 0, yy = 0, largest = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < D; i += gridDim.x * blockDim.x) {
    long long at = (long long)slot * D + i, next = (long long)B * D;
    float4 zero = make_float4(0, 0, 0, 0), s = zero, y = zero, Py = zero;
    float4 g = differences[next + at], P = basis[2 * ROWS * next + at];
    if (take) {
      float4 here = x[at], new_g = gradient[at], new_P = Pg[at];
      s = here - accepted[at], y = new_g - g, Py = new_P - P, g = new_g, P = new_P;
      accepted[at] = here;
    }
    #pragma unroll
    for (int k = 0; k < K; ++k) {
      float4 v = basis[k * next + at];  // replaced below where this pass writes it
      if (k == row) v = s;
      if (k == ROWS + row) v = Py;
      if (k == 2 * ROWS) v = P;
      with_y[k] += dot(v, y), with_g[k] += dot(v, g);
    }
    differences[at] = y, differences[next + at] = g;
    basis[row * next + at] = s, basis[(ROWS + row) * next + at] = Py;
    basis[2 * ROWS * next + at] = P;
    ss += dot(s, s), yy += dot(y, y);
    largest = fmaxf(largest, fmaxf(fmaxf(fabsf(P.x), fabsf(P.y)), fmaxf(fabsf(P.z), fabsf(P.w))));
  }
  int warps = blockDim.x / 32, lane = threadIdx.x % 32;
  long long warp = ((long long)slot * gridDim.x + blockIdx.x) * warps + threadIdx.x / 32;
  float* out = sums + warp * (2 * K + 3);
  #pragma unroll
  for (int k = 0; k < K; ++k) {
    float sy = sum_of_warp(with_y[k]), sg = sum_of_warp(with_g[k]);
    if (lane == 0) out[k] = sy, out[K + k] = sg;
  }
  ss = sum_of_warp(ss), yy = sum_of_warp(yy), largest = largest_of_warp(largest);
  if (lane == 0) out[2 * K] = ss, out[2 * K + 1] = yy, out[2 * K + 2] = largest;
}

__device__ float bounded(float x, float low, float high) {
  return x < low ? low : x > high ? high : x;
}

// x = accepted + t (coefficients . basis), clamped to the bounds, where ``moving``, else accepted.
// coefficients: (B, 2 ROWS + 1). slopes: for each slot and warp gradient . (step), moving or not.
template <int ROWS>
__global__ void __launch_bounds__(128) move(
    const float4* __restrict__ basis, const float* __restrict__ coefficients,
    const float4* __restrict__ accepted, const float4* __restrict__ gradient,
    const float* __restrict__ t, const bool* __restrict__ moving, float4* __restrict__ x,
    float* __restrict__ slopes, float low, float high, int D) {
  constexpr int K = 2 * ROWS + 1;
  int slot = blockIdx.y, B = gridDim.y;
  float c[K], slope = 0, length = t[slot];
  bool go = moving[slot];
  #pragma unroll
  for (int k = 0; k < K; ++k) c[k] = coefficients[slot * K + k];
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < D; i += gridDim.x * blockDim.x) {
    long long at = (long long)slot * D + i, next = (long long)B * D;
    float4 d = make_float4(0, 0, 0, 0), from = accepted[at], g = gradient[at];
    #pragma unroll
    for (int k = 0; k < K; ++k) {
      float4 v = basis[k * next + at];
      d.x += c[k] * v.x, d.y += c[k] * v.y, d.z += c[k] * v.z, d.w += c[k] * v.w;
    }
    float4 to = make_float4(bounded(from.x + length * d.x, low, high),
                            bounded(from.y + length * d.y, low, high),
                            bounded(from.z + length * d.z, low, high),
                            bounded(from.w + length * d.w, low, high));
    slope += dot(to - from, g);
    x[at] = go ? to : from;
  }
  slope = sum_of_warp(slope);
  int warps = blockDim.x / 32;
  if (threadIdx.x % 32 == 0)
    slopes[((long long)slot * gridDim.x + blockIdx.x) * warps + threadIdx.x / 32] = slope;
}
