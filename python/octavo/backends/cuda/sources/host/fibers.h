// Runs a CUDA kernel on this CPU: one fiber for each CUDA thread, one block after another.
//
//   LaunchOptions         what a launch is asked for: its size, the order of its threads, when cp.async lands
//   Fiber                 a CUDA thread: its stack, why it waits, its cp.async groups
//   Machine               the running block with its fibers, barriers and shared memory
//   fail                  ends the launch with a message
//   meet, wait_barrier    where fibers wait for each other, as lanes of a warp and as threads of a block
//   run_grid, launch      turn the blocks, and in each its fibers
//
// A fiber runs until it waits: all between two waits is atomic. What the hardware may do in any order is therefore
// tried in many orders: threads by turns, shuffled, or with some warps as far ahead of others as the barriers allow.
// Memory ordering weaker than that, and blocks that wait for each other, are not emulated.
//
// A mistake of the kernel ends the launch, never the process: an access outside of all arrays (they end at guard
// pages), a barrier that not all threads reach, lanes of a warp that meet in different operations.
#pragma once
#include <algorithm>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include "switch.h"

namespace octavo_host {

constexpr int LANES = 32;
constexpr int NUM_BARRIERS = 16;
constexpr size_t PAGE_BYTES = 4096;
constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t SHARED_ALIGNMENT = 128;
constexpr unsigned char POISON = 0xFF;  // a NaN in every floating-point type
constexpr unsigned char CANARY = 0xA5;

// forward: by turns. reverse: the last warp first, each as far as it can. shuffled: now so, now so, at random.
// skewed: always the first warp that can run, of an order drawn for each block.
enum class Order : uint32_t { forward, reverse, shuffled, skewed };

// When the bytes of a cp.async arrive: as late as its wait allows, at once, or either, drawn for each copy.
enum class Landing : uint32_t { late, early, mixed };

struct LaunchOptions {
  uint32_t grid[3], block[3];
  uint32_t shared_bytes;
  Order order;
  Landing landing;
  uint32_t seed;
};

struct Statistics {
  uint64_t mma, ldmatrix, bank_conflicts, copied_bytes, switches, blocks;
};

struct Index {
  unsigned x, y, z;
};

struct AsyncCopy {
  void* target;
  const void* source;
  size_t bytes;
  bool valid;  // otherwise zeros arrive, and the source is not read
};

enum class State { ready, in_warp_operation, at_barrier, exited };

struct Fiber {
  StackPointer stack_pointer = nullptr;
  char* stack = nullptr;
  Index index{};
  int thread = 0;
  State state = State::ready;
  const char* operation = "";  // of the warp, with the lanes in mask; given and taken are what the lane brings and gets
  unsigned mask = 0;
  const void* given = nullptr;
  void* taken = nullptr;
  int barrier = 0;
  std::vector<std::vector<AsyncCopy>> copies;  // groups of cp.async; the last one is still open

  int lane() const { return thread % LANES; }
};

// xorshift32: the standard library's generators take longer to compile than a kernel.
struct Random {
  uint32_t state = 1;
  void seed(uint32_t seed) { state = seed * 0x9E3779B9u | 1; }
  uint32_t draw() {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
  }
  bool coin() { return draw() >> 16 & 1; }
  void shuffle(std::vector<int>& list) {
    for (size_t left = list.size(); left > 1; left--) std::swap(list[left - 1], list[(draw() >> 8) % left]);
  }
};

struct Barrier {
  unsigned expected = 0, arrived = 0;  // threads; 0 expects every thread that has not exited
};

struct Machine {
  LaunchOptions options{};
  Index block{};
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
  StackPointer scheduler = nullptr;
  int num_live = 0;
  Barrier barriers[NUM_BARRIERS];
  unsigned char* shared = nullptr;
  void (*body)(void**) = nullptr;
  void** arguments = nullptr;
  Random random;
  Statistics statistics{};
  std::string failure;
};

inline Machine machine;

inline void suspend() {
  machine.statistics.switches++;
  octavo_switch(&machine.current->stack_pointer, machine.scheduler);
}

// Ends the launch. On a fiber it does not return: the scheduler goes on, sees the failure, and leaves.
inline void fail(const char* format, ...) {
  char text[256];
  va_list values;
  va_start(values, format);
  std::vsnprintf(text, sizeof text, format, values);
  va_end(values);
  machine.failure = text;
  char place[128];
  const Index block = machine.block;
  std::snprintf(place, sizeof place, " [block %u %u %u", block.x, block.y, block.z);
  machine.failure += place;
  if (machine.current) {
    std::snprintf(place, sizeof place, ", thread %d", machine.current->thread);
    machine.failure += place;
  }
  machine.failure += "]";
  if (machine.current) suspend();
}

inline void land(const AsyncCopy& copy) {
  if (copy.valid) std::memcpy(copy.target, copy.source, copy.bytes);
  else std::memset(copy.target, 0, copy.bytes);
}

// What the lanes of a warp brought to an operation, and what each one takes from it.
template <class Given, class Taken>
struct Lanes {
  Fiber* first;
  unsigned mask;
  bool has(int lane) const { return mask >> lane & 1; }
  const Given& given(int lane) const { return *static_cast<const Given*>(first[lane].given); }
  Taken& taken(int lane) const { return *static_cast<Taken*>(first[lane].taken); }
};

// Waits for every lane of `mask` in the same operation. The last one runs `complete(lanes)` for all of them.
template <class Taken, class Given, class Complete>
Taken meet(unsigned mask, const char* operation, const Given& given, Complete complete) {
  Fiber& self = *machine.current;
  Fiber* first = &self - self.lane();
  const int lanes = std::min<int>(LANES, machine.fibers.data() + machine.fibers.size() - first);
  if (lanes < LANES) mask &= (1u << lanes) - 1;  // lanes that the block does not have
  Taken taken{};
  self.given = &given;
  self.taken = &taken;
  self.mask = mask;
  self.operation = operation;
  self.state = State::in_warp_operation;
  if (!(mask >> self.lane() & 1)) fail("%s: the lane is not in its own mask %08x", operation, mask);
  bool all = true;
  for (int lane = 0; lane < lanes; lane++)
    if (mask >> lane & 1) all &= first[lane].state == State::in_warp_operation && first[lane].mask == mask;
  if (all) {
    for (int lane = 0; lane < lanes; lane++)
      if (mask >> lane & 1 && std::strcmp(first[lane].operation, operation) != 0)
        fail("lanes of a warp meet in %s and in %s", operation, first[lane].operation);
    complete(Lanes<Given, Taken>{first, mask});
    for (int lane = 0; lane < lanes; lane++)
      if (mask >> lane & 1) first[lane].state = State::ready;
  }
  suspend();
  return taken;
}

inline void release_if_complete(int number) {
  Barrier& barrier = machine.barriers[number];
  const unsigned expected = barrier.expected ? barrier.expected : machine.num_live;
  if (barrier.arrived < expected) return;
  barrier = {};
  for (Fiber& fiber : machine.fibers)
    if (fiber.state == State::at_barrier && fiber.barrier == number) fiber.state = State::ready;
}

// Arrives at barrier `number`, and waits there for `expected` threads (0: all of the block) if `wait` is set.
inline void wait_barrier(int number, unsigned expected, bool wait) {
  if (number < 0 || number >= NUM_BARRIERS) return fail("there is no barrier %d", number);
  Barrier& barrier = machine.barriers[number];
  if (expected % LANES) fail("barrier %d: %u threads are not whole warps", number, expected);
  if (barrier.arrived && barrier.expected != expected) fail("barrier %d: its threads expect different counts", number);
  barrier.expected = expected;
  barrier.arrived++;
  if (wait) {
    machine.current->state = State::at_barrier;
    machine.current->barrier = number;
  }
  release_if_complete(number);
  if (wait) suspend();
}

[[noreturn]] inline void fiber_main() {
  machine.body(machine.arguments);
  Fiber& self = *machine.current;
  for (const auto& group : self.copies)
    if (!group.empty()) fail("a cp.async was never waited for");
  self.state = State::exited;
  machine.num_live--;
  if (machine.barriers[0].arrived) release_if_complete(0);
  suspend();
  __builtin_unreachable();
}

inline bool run_fiber(Fiber& fiber) {
  if (fiber.state != State::ready || !machine.failure.empty()) return false;
  machine.current = &fiber;
  octavo_switch(&machine.scheduler, fiber.stack_pointer);
  machine.current = nullptr;
  return true;
}

inline bool run_warp_as_far_as_it_can(int warp, const std::vector<int>& lanes) {
  bool ran = false;
  for (bool again = true; again; ran |= again) {
    again = false;
    for (int lane : lanes) {
      const size_t thread = warp * LANES + lane;
      if (thread < machine.fibers.size()) again |= run_fiber(machine.fibers[thread]);
    }
  }
  return ran;
}

inline std::vector<int> numbers(int count) {
  std::vector<int> all(count);
  for (int i = 0; i < count; i++) all[i] = i;
  return all;
}

// Runs the fibers of one block to their end, or to a failure.
inline void run_block() {
  const int num_threads = machine.fibers.size();
  std::vector<int> threads = numbers(num_threads), lanes = numbers(LANES);
  std::vector<int> warps = numbers((num_threads + LANES - 1) / LANES);
  const Order order = machine.options.order;
  if (order == Order::reverse) {
    std::reverse(warps.begin(), warps.end());
    std::reverse(lanes.begin(), lanes.end());
  }
  if (order == Order::skewed) machine.random.shuffle(warps);
  while (machine.num_live && machine.failure.empty()) {
    bool ran = false;
    if (order == Order::shuffled) {
      machine.random.shuffle(threads);
      machine.random.shuffle(warps);
    }
    if (order == Order::shuffled || order == Order::skewed) machine.random.shuffle(lanes);
    if (order == Order::forward || (order == Order::shuffled && machine.random.coin())) {
      for (int thread : threads) ran |= run_fiber(machine.fibers[thread]);
    } else {
      for (int warp : warps) {
        ran |= run_warp_as_far_as_it_can(warp, lanes);
        if (ran && order == Order::skewed) break;
      }
    }
    if (ran || !machine.failure.empty()) continue;
    std::string waiting = "deadlock:";
    for (const Fiber& fiber : machine.fibers) {
      if (fiber.state == State::exited || waiting.size() > 160) continue;
      const bool at_barrier = fiber.state == State::at_barrier;
      waiting += " " + std::to_string(fiber.thread) + (at_barrier ? " at a barrier," : " in ");
      if (!at_barrier) waiting += std::string(fiber.operation) + ",";
    }
    fail("%s", waiting.c_str());
  }
}

inline void prepare_block() {
  const uint32_t* size = machine.options.block;
  machine.num_live = machine.fibers.size();
  for (Barrier& barrier : machine.barriers) barrier = {};
  for (int thread = 0; thread < machine.num_live; thread++) {
    Fiber& fiber = machine.fibers[thread];
    fiber.thread = thread;
    fiber.index = {thread % size[0], thread / size[0] % size[1], thread / size[0] / size[1]};
    fiber.state = State::ready;
    fiber.copies.assign(1, {});
    fiber.stack_pointer = first_stack_pointer(fiber.stack, STACK_BYTES, fiber_main);
  }
}

// Readable and writable bytes between two guard pages; the last byte is the last before its guard page.
struct GuardedMemory {
  size_t bytes;
  char* mapping;
  explicit GuardedMemory(size_t wanted) : bytes((wanted + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    mapping = static_cast<char*>(mmap(nullptr, bytes + 2 * PAGE_BYTES, PROT_NONE, flags, -1, 0));
    mprotect(begin(), bytes, PROT_READ | PROT_WRITE);
  }
  GuardedMemory(const GuardedMemory&) = delete;
  ~GuardedMemory() { munmap(mapping, bytes + 2 * PAGE_BYTES); }
  char* begin() const { return mapping + PAGE_BYTES; }
  char* end() const { return begin() + bytes; }
};

inline void on_fault(int signal, siginfo_t* information, void*) {
  if (signal == SIGFPE) fail("an integer was divided by zero");
  if (signal == SIGILL) fail("the host compiler saw undefined behaviour, and put a trap there");
  fail("%p is outside of every array", information->si_addr);
}

// Turns faults of the kernel into failures while it lives. A stack that overflowed cannot hold the handler.
struct FaultGuard {
  GuardedMemory memory{64 << 10};
  stack_t old_stack{};
  static constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
  struct sigaction old_actions[std::size(SIGNALS)]{};
  FaultGuard() {
    stack_t stack{};
    stack.ss_sp = memory.begin();
    stack.ss_size = memory.bytes;
    sigaltstack(&stack, &old_stack);
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (size_t i = 0; i < std::size(SIGNALS); i++) sigaction(SIGNALS[i], &action, &old_actions[i]);
  }
  ~FaultGuard() {
    for (size_t i = 0; i < std::size(SIGNALS); i++) sigaction(SIGNALS[i], &old_actions[i], nullptr);
    sigaltstack(&old_stack, nullptr);
  }
};

inline void run_grid() {
  const LaunchOptions& options = machine.options;
  const size_t padded = (options.shared_bytes + SHARED_ALIGNMENT - 1) / SHARED_ALIGNMENT * SHARED_ALIGNMENT;
  GuardedMemory shared(padded);
  machine.shared = reinterpret_cast<unsigned char*>(shared.end() - padded);
  FaultGuard guard;
  const uint32_t *grid = options.grid, total = grid[0] * grid[1] * grid[2];
  std::vector<int> blocks = numbers(total);
  if (options.order == Order::reverse) std::reverse(blocks.begin(), blocks.end());
  if (options.order >= Order::shuffled) machine.random.shuffle(blocks);
  for (uint32_t number : blocks) {
    machine.block = {number % grid[0], number / grid[0] % grid[1], number / grid[0] / grid[1]};
    machine.statistics.blocks++;
    std::memset(machine.shared, POISON, options.shared_bytes);
    std::memset(machine.shared + options.shared_bytes, CANARY, padded - options.shared_bytes);
    prepare_block();
    run_block();
    for (size_t i = options.shared_bytes; i < padded && machine.failure.empty(); i++)
      if (machine.shared[i] != CANARY) fail("a write behind shared memory, by %zu bytes", i - options.shared_bytes);
    if (!machine.failure.empty()) return;
  }
}

// Returns null, or what was wrong; the text lives until the next launch.
inline const char* launch(const LaunchOptions& options, void (*body)(void**), void** arguments) {
  static std::vector<GuardedMemory*> stacks;
  const size_t num_threads = size_t{options.block[0]} * options.block[1] * options.block[2];
  while (stacks.size() < num_threads) stacks.push_back(new GuardedMemory(STACK_BYTES));
  machine.options = options;
  machine.body = body;
  machine.arguments = arguments;
  machine.random.seed(options.seed);
  machine.failure.clear();
  machine.current = nullptr;
  machine.fibers.resize(num_threads);
  for (size_t thread = 0; thread < num_threads; thread++) machine.fibers[thread].stack = stacks[thread]->begin();
  run_grid();
  return machine.failure.empty() ? nullptr : machine.failure.c_str();
}

template <class... Parameters, size_t... Indices>
void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<Indices...>) {
  kernel(*static_cast<std::remove_cv_t<Parameters>*>(arguments[Indices])...);
}

// Calls with the driver's convention: one pointer to each argument.
template <class... Parameters>
void call(void (*kernel)(Parameters...), void** arguments) {
  call(kernel, arguments, std::index_sequence_for<Parameters...>{});
}

}  // namespace octavo_host

extern "C" inline __attribute__((used)) octavo_host::Statistics* octavo_statistics() {
  return &octavo_host::machine.statistics;
}
