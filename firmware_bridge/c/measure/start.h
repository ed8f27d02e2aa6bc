/* A program that measures, on QEMU's mps2-an386: it begins, calls measure(), and ends. What it puts goes to a file named
 * "results" through semihosting; a tick of the timer is 40 ns, with -icount shift=0 that many instructions. */
#ifndef START_H
#define START_H

#include <stdint.h>
#include <string.h>

#define GIVEN 0x21000000u /* where the emulator puts what the program works on */
#define SYSTICK_CONTROL (*(volatile uint32_t *)0xE000E010u)
#define SYSTICK_RELOAD (*(volatile uint32_t *)0xE000E014u)
#define SYSTICK_VALUE (*(volatile uint32_t *)0xE000E018u)
#define COPROCESSORS (*(volatile uint32_t *)0xE000ED88u)
#define NS_PER_TICK 40u
#define FRESH 0xA5A5A5A5u

extern uint32_t data_begin[], data_end[], data_source[], bss_begin[], bss_end[], stack_low[], stack_high[];
void begin(void);
static void measure(void);

static int32_t host(uint32_t call, const void *arguments)
{
    register uint32_t r0 __asm__("r0") = call;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return (int32_t)r0;
}

static uint32_t file;

static void put(const void *bytes, uint32_t n)
{
    const uint32_t arguments[3] = {file, (uint32_t)(uintptr_t)bytes, n};
    (void)host(0x05u, arguments);
}

static uint32_t stack_used(void)
{
    const uint32_t *p = stack_low;
    while (p < stack_high && *p == FRESH)
        p++;
    return (uint32_t)((uintptr_t)stack_high - (uintptr_t)p);
}

/* Begins to count. */
static uint32_t started(void)
{
    SYSTICK_VALUE = 0u;
    return SYSTICK_VALUE;
}

/* Nanoseconds since started(), at most 0.67 s of them. */
static uint32_t taken_since(uint32_t start) { return ((start - SYSTICK_VALUE) & 0xffffffu) * NS_PER_TICK; }

/* Apart from begin, so that the floating-point unit is on before any of its registers is used. */
static __attribute__((noinline)) void work(void)
{
    static const char name[] = "results";
    const uint32_t arguments[3] = {(uint32_t)(uintptr_t)name, 5u, sizeof name - 1u};
    uint32_t *p;
    const uint32_t *from = data_source;
    for (p = data_begin; p < data_end;)
        *p++ = *from++;
    for (p = bss_begin; p < bss_end;)
        *p++ = 0u;
    for (p = stack_low; (uintptr_t)p + 256u < (uintptr_t)stack_high; p++)
        *p = FRESH;
    SYSTICK_RELOAD = 0xffffffu;
    SYSTICK_CONTROL = 5u;
    file = (uint32_t)host(0x01u, arguments);
    measure();
    (void)host(0x02u, &file);
    (void)host(0x18u, (const void *)0x20026u);
    for (;;) {
    }
}

void begin(void)
{
    COPROCESSORS |= 0xFu << 20;
    __asm__ volatile("dsb\n isb");
    work();
}

static void stop(void)
{
    (void)host(0x18u, (const void *)0x20024u);
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16] = {
    (uintptr_t)stack_high, (uintptr_t)begin, (uintptr_t)stop, (uintptr_t)stop, (uintptr_t)stop, (uintptr_t)stop,
    (uintptr_t)stop,
};

#endif
