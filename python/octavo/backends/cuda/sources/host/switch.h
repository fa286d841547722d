// Changes the stack that the CPU runs on: all that a fiber is made of.
//
//   octavo_switch          leaves one stack, for where another one was left
//   first_stack_pointer    prepares a new stack such that the first switch to it calls a function
#pragma once
#include <cstddef>
#include <cstdint>

using StackPointer = void*;

// Saves the registers that a call preserves on this stack, its pointer in *from, and goes on where `to` was saved.
extern "C" void octavo_switch(StackPointer* from, StackPointer to);

#if defined(__x86_64__)
asm(R"(
    .text
    .weak octavo_switch
    .type octavo_switch, @function
octavo_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size octavo_switch, . - octavo_switch
)");

inline StackPointer first_stack_pointer(char* stack, size_t bytes, void (*function)()) {
  constexpr int SAVED_REGISTERS = 6;
  uint64_t* top = reinterpret_cast<uint64_t*>(stack + bytes);
  *--top = 0;  // no caller; also aligns the stack as the call of a function would
  *--top = reinterpret_cast<uint64_t>(function);
  for (int i = 0; i < SAVED_REGISTERS; i++) *--top = 0;
  return top;
}
#else
#error "octavo_switch is written for x86-64 only"
#endif
