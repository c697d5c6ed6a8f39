// The parts of CUDA that kernels.cu needs, for a CPU's C++ compiler: types, indices, and a block's
// threads as fibers that take turns. A fiber that calls __syncthreads, a shuffle or a matrix product
// yields until all fibers have called it. All threads of a block must make each such call, which is
// checked.
#include <ucontext.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct uint4 { unsigned x, y, z, w; };
struct Index { int x, y; };
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static void atomicMax(unsigned* at, unsigned value) { *at = max(*at, value); }
static unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, 4);
  return bits;
}

static Index threadIdx, blockIdx, blockDim, gridDim;

namespace host {

struct Given { unsigned words[6]; int turn; };
struct Fiber {
  ucontext_t context;
  int turn;
  bool done;
  char stack[1 << 15];
};

constexpr int MOST = 256, WARP = 32;
static Fiber fibers[MOST];
static Given given[2][MOST];  // alternating, as some threads may already be at the next call
static ucontext_t scheduler;
static std::function<void()> body;
static const char* fault;

static const Given* exchange(Given mine) {
  Fiber& me = fibers[threadIdx.x];
  mine.turn = ++me.turn;
  Given* all = given[mine.turn % 2];
  all[threadIdx.x] = mine;
  swapcontext(&me.context, &scheduler);
  for (int i = 0; i < blockDim.x; ++i)
    if (all[i].turn != mine.turn) fault = "not all threads of a block made the same calls";
  return all + threadIdx.x / WARP * WARP;
}

static void enter() {
  body();
  fibers[threadIdx.x].done = true;
}

static void run_block() {
  for (int i = 0; i < blockDim.x; ++i) {
    Fiber& fiber = fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = sizeof(fiber.stack);
    fiber.context.uc_link = &scheduler;
    fiber.turn = 0, fiber.done = false;
    given[0][i].turn = given[1][i].turn = 0;
    makecontext(&fiber.context, enter, 0);
  }
  for (bool left = true; left;) {
    left = false;
    for (int i = 0; i < blockDim.x; ++i) {
      if (fibers[i].done) continue;
      threadIdx.x = i;
      swapcontext(&scheduler, &fibers[i].context);
      left = left || !fibers[i].done;
    }
  }
}

template <class A> constexpr char kind() {
  static_assert(std::is_pointer<A>() || std::is_same<A, int>() || std::is_same<A, float>());
  return std::is_pointer<A>() ? 'p' : std::is_same<A, int>() ? 'i' : 'f';
}

template <class... A, std::size_t... I>
const char* launch(void (*kernel)(A...), int columns, int rows, int threads, void** arguments,
                   const char* kinds, std::index_sequence<I...>) {
  const char wanted[] = {kind<A>()..., 0};
  if (strcmp(kinds, wanted)) return "the arguments do not have the kernel's types";
  if (threads > MOST || threads % WARP) return "blocks of this size are not supported";
  fault = nullptr;
  body = [=] { kernel(*(A*)arguments[I]...); };
  blockDim = {threads, 1}, gridDim = {columns, rows};
  for (blockIdx.y = 0; blockIdx.y < rows; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < columns; ++blockIdx.x) run_block();
  return fault;
}

template <class... A>
const char* launch(void (*kernel)(A...), int columns, int rows, int threads, void** arguments,
                   const char* kinds) {
  return launch(kernel, columns, rows, threads, arguments, kinds, std::index_sequence_for<A...>());
}

// cvt.f32.f16
static float widened(unsigned short bits) {
  int exponent = bits >> 10 & 31, digits = bits & 1023;
  float size = exponent == 31 ? (digits ? NAN : INFINITY)
               : exponent    ? ldexpf(1024 + digits, exponent - 25)
                             : ldexpf(digits, -24);
  return bits & 0x8000 ? -size : size;
}

// cvt.rn.f16.f32
static unsigned short narrowed(float x) {
  if (std::isnan(x)) return 0x7fff;
  unsigned short sign = std::signbit(x) ? 0x8000 : 0;
  float size = fabsf(x);
  if (size >= 65520) return sign | 0x7c00;
  int exponent = size < ldexpf(1, -14) ? -14 : ilogbf(size);
  return sign | ((int)nearbyintf(ldexpf(size, 10 - exponent)) + ((exponent + 14) << 10));
}

static float half_of(unsigned word, int which) { return widened(word >> 16 * which); }

// mma.sync.m16n8k16 (PTX ISA 9.7.14). Lane 4 r + q holds rows r and r + 8 of A and column r of B,
// in each the elements 2 q, 2 q + 1, 2 q + 8 and 2 q + 9, and columns 2 q and 2 q + 1 of rows r and
// r + 8 of C.
static void multiply(float* c, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                     unsigned b1) {
  const Given* warp = exchange({{a0, a1, a2, a3, b0, b1}});
  int r = threadIdx.x % WARP / 4, q = threadIdx.x % 4;
  for (int row = 0; row < 2; ++row)
    for (int column = 0; column < 2; ++column) {
      double sum = c[2 * row + column];
      for (int k = 0; k < 16; ++k) {
        int part = k / 8, owner = k % 8 / 2;
        sum += half_of(warp[4 * r + owner].words[2 * part + row], k % 2) *
               (double)half_of(warp[4 * (2 * q + column) + owner].words[4 + part], k % 2);
      }
      c[2 * row + column] = sum;
    }
}

}  // namespace host

static void __syncthreads() { host::exchange({}); }

template <class T> static T __shfl_xor_sync(unsigned, T x, int lanes) {
  host::Given mine = {};
  memcpy(mine.words, &x, sizeof(T));
  memcpy(&x, host::exchange(mine)[threadIdx.x % host::WARP ^ lanes].words, sizeof(T));
  return x;
}
