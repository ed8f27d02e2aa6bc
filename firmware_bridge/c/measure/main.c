/* Runs windows that the emulator put into memory and hands back what came of them: embeddings, features, counts.
 *
 * In: at WINDOWS, uint32 number of windows, uint32 samples from one to the next, then the samples. Out, a file named
 * "results" through semihosting: for each window uint32 instructions, the embedding (float), the grid (int16), with
 * FEATURES the int8 features; at the end uint32 bytes of stack that were used. */
#include <string.h>

#include "soundkeep/sk_ear.h"
#include "soundkeep/sk_frontend.h"
#include "soundkeep/sk_model.h"

#define WINDOWS 0x21000000u
#define SYSTICK_CONTROL (*(volatile uint32_t *)0xE000E010u)
#define SYSTICK_RELOAD (*(volatile uint32_t *)0xE000E014u)
#define SYSTICK_VALUE (*(volatile uint32_t *)0xE000E018u)
#define COPROCESSORS (*(volatile uint32_t *)0xE000ED88u)
#define NS_PER_TICK 40u
#define FRESH 0xA5A5A5A5u
#define GUARD 64u

extern uint32_t data_begin[], data_end[], data_source[], bss_begin[], bss_end[], stack_low[], stack_high[];
void begin(void);

static union {
    uint64_t aligned;
    unsigned char bytes[ARENA + GUARD];
} arena;

static float embedding[SK_MODEL_DIM];
static int16_t grid[SK_MODEL_DIM];

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

static void all_windows(void)
{
    const uint32_t *head = (const uint32_t *)WINDOWS;
    const int16_t *pcm = (const int16_t *)(WINDOWS + 8u);
    const uint32_t n = head[0], hop = head[1];
    uint32_t i, k;
    sk_ear ear;
    memset(arena.bytes, 0xC3, sizeof arena.bytes);
    if (sk_ear_init(&ear, &MODEL, arena.bytes, ARENA) != SK_OK)
        return;
    for (i = 0u; i < n; i++, pcm += hop) {
        uint32_t start, taken;
        SYSTICK_VALUE = 0u;
        start = SYSTICK_VALUE;
        sk_ear_embed(&ear, pcm, embedding);
        sk_to_grid(embedding, SK_MODEL_DIM, SK_MODEL_GRID, grid);
        taken = ((start - SYSTICK_VALUE) & 0xffffffu) * NS_PER_TICK;
        put(&taken, sizeof taken);
        put(embedding, sizeof embedding);
        put(grid, sizeof grid);
#ifdef FEATURES
        sk_features_int8(&MODEL, pcm, arena.bytes);
        put(arena.bytes + MODEL.powers, (uint32_t)MODEL.front_end->n_bands * MODEL.front_end->n_frames);
#endif
    }
    for (k = ARENA; k < sizeof arena.bytes; k++)
        if (arena.bytes[k] != 0xC3u)
            return;
    k = stack_used();
    put(&k, sizeof k);
}

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
    for (p = stack_low; p < stack_high - 64; p++)
        *p = FRESH;
    SYSTICK_RELOAD = 0xffffffu;
    SYSTICK_CONTROL = 5u;
    file = (uint32_t)host(0x01u, arguments);
    all_windows();
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
    (uintptr_t)stack_high, (uintptr_t)begin, (uintptr_t)stop, (uintptr_t)stop, (uintptr_t)stop, (uintptr_t)stop, (uintptr_t)stop,
};
