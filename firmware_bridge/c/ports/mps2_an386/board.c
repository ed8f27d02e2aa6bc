/* mps2-an386 in QEMU. Its microphone is a recording that the emulator was given in memory, at SOUND:
 *     u32 magic "SKWV", u32 samples, u32 microseconds of a block (0: as fast as the line takes them), u32 number of
 *     this start, then the samples (int16). Behind the recording there is silence. */
#include "board.h"

#define SOUND 0x21000000u
#define MAGIC 0x56574B53u
#define CLOCK_HZ 25000000u
#define FRESH 0xA5A5A5A5u
#define MIC_BLOCKS 40u   /* 0.8 s that a microphone's own buffer would hold */
#define EASY_BYTES 1536u /* of the ring that must be free before the next block, where the line sets the pace */

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define UART_DATA REGISTER(0x40004000u)
#define UART_STATE REGISTER(0x40004004u)
#define UART_CONTROL REGISTER(0x40004008u)
#define UART_INTERRUPT REGISTER(0x4000400Cu)
#define UART_DIVIDER REGISTER(0x40004010u)
#define TX_FULL 1u
#define RX_FULL 2u
#define RX_OVERRUN 8u
#define SYSTICK_CONTROL REGISTER(0xE000E010u)
#define SYSTICK_RELOAD REGISTER(0xE000E014u)
#define SYSTICK_VALUE REGISTER(0xE000E018u)
#define IRQ_ENABLE REGISTER(0xE000E100u)
#define COPROCESSORS REGISTER(0xE000ED88u)

extern uint32_t data_begin[], data_end[], data_source[], bss_begin[], bss_end[], stack_low[], stack_high[];
int main(void);
void board_begin(void);

static struct {
    sk_ring *out;
    sk_ring in;
    volatile uint32_t ms, n_overruns;
    volatile uint8_t sending;
    uint32_t place, due_us, last_ms;
    uint8_t received[4096];
} board;

const char board_name[] = "mps2-an386";
static const int16_t silence[BOARD_BLOCK];

uint32_t board_ms(void) { return board.ms; }

uint32_t board_overruns(void) { return board.n_overruns; }

uint32_t board_number(void) { return REGISTER(SOUND) == MAGIC ? REGISTER(SOUND + 12u) : SYSTICK_VALUE; }

void board_rest(void) { __asm__ volatile("wfi"); }

uint32_t board_stack_free(void)
{
    const uint32_t *p = stack_low;
    while (p < stack_high && *p == FRESH)
        p++;
    return (uint32_t)((uintptr_t)p - (uintptr_t)stack_low);
}

static void send_next(void)
{
    uint8_t byte;
    while ((UART_STATE & TX_FULL) == 0u) {
        if (sk_ring_get(board.out, &byte, 1u) == 0u) {
            board.sending = 0u;
            return;
        }
        UART_DATA = byte;
    }
    board.sending = 1u;
}

void board_send(void)
{
    __asm__ volatile("cpsid i" ::: "memory");
    if (!board.sending)
        send_next();
    __asm__ volatile("cpsie i" ::: "memory");
}

int board_byte(uint8_t *byte) { return (int)sk_ring_get(&board.in, byte, 1u); }

static uint32_t microseconds(void)
{
    uint32_t ms, ticks;
    do {
        ms = board.ms;
        ticks = SYSTICK_VALUE;
    } while (ms != board.ms);
    return ms * 1000u + (CLOCK_HZ / 1000u - 1u - ticks) / (CLOCK_HZ / 1000000u);
}

const int16_t *board_block(int listening, uint32_t *lost)
{
    const uint32_t known = REGISTER(SOUND) == MAGIC, pace = known ? REGISTER(SOUND + 8u) : 20000u;
    const uint32_t n = known ? REGISTER(SOUND + 4u) : 0u;
    const int16_t *sound = (const int16_t *)(SOUND + 16u);
    *lost = 0u;
    if (pace == 0u) {
        if (!listening || sk_ring_free(board.out) < EASY_BYTES)
            return 0;
    } else {
        const uint32_t now = microseconds();
        if ((int32_t)(now - board.due_us) < 0)
            return 0;
        if (now - board.due_us > MIC_BLOCKS * pace) {
            const uint32_t late = (now - board.due_us) / pace;
            *lost = late * BOARD_BLOCK;
            board.due_us += late * pace;
            board.place = n - board.place < *lost ? n : board.place + *lost;
        }
        board.due_us += pace;
    }
    if (n - board.place < BOARD_BLOCK) {
        board.place = n;
        return silence;
    }
    board.place += BOARD_BLOCK;
    return sound + board.place - BOARD_BLOCK;
}

uint32_t board_waiting(void)
{
    const uint32_t pace = REGISTER(SOUND) == MAGIC ? REGISTER(SOUND + 8u) : 20000u;
    const int32_t late = (int32_t)(microseconds() - board.due_us);
    return pace == 0u || late < 0 ? 0u : ((uint32_t)late / pace + 1u) * BOARD_BLOCK;
}

void board_start(sk_ring *out)
{
    board.out = out;
    sk_ring_init(&board.in, board.received, sizeof board.received);
    SYSTICK_RELOAD = CLOCK_HZ / 1000u - 1u;
    SYSTICK_VALUE = 0u;
    SYSTICK_CONTROL = 7u;
    UART_DIVIDER = CLOCK_HZ / 921600u;
    UART_CONTROL = 0xFu; /* send, receive, and an interrupt for each */
    IRQ_ENABLE = 3u;     /* 0 received, 1 sent */
    __asm__ volatile("cpsie i" ::: "memory");
}

static void on_tick(void) { board.ms++; }

static void on_received(void)
{
    UART_INTERRUPT = 2u;
    if ((UART_STATE & RX_OVERRUN) != 0u) {
        UART_STATE = RX_OVERRUN;
        board.n_overruns++;
    }
    while ((UART_STATE & RX_FULL) != 0u) {
        const uint8_t byte = (uint8_t)UART_DATA;
        if (!sk_ring_put(&board.in, &byte, 1u))
            board.n_overruns++;
    }
}

static void on_sent(void)
{
    UART_INTERRUPT = 1u;
    send_next();
}

static void on_fault(void)
{
    for (;;) {
    }
}

/* Apart from board_begin, so that the floating-point unit is on before any of its registers is used. */
static __attribute__((noinline)) void work(void)
{
    uint32_t *p;
    const uint32_t *from = data_source;
    for (p = data_begin; p < data_end;)
        *p++ = *from++;
    for (p = bss_begin; p < bss_end;)
        *p++ = 0u;
    for (p = stack_low; (uintptr_t)p + 256u < (uintptr_t)stack_high; p++) /* this function's own lies at the end */
        *p = FRESH;
    (void)main();
    on_fault();
}

void board_begin(void)
{
    COPROCESSORS |= 0xFu << 20;
    __asm__ volatile("dsb\n isb");
    work();
}

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[18] = {
    (uintptr_t)stack_high, (uintptr_t)board_begin, (uintptr_t)on_fault, (uintptr_t)on_fault, (uintptr_t)on_fault,
    (uintptr_t)on_fault, (uintptr_t)on_fault, 0u, 0u, 0u, 0u, (uintptr_t)on_fault, (uintptr_t)on_fault, 0u,
    (uintptr_t)on_fault, (uintptr_t)on_tick, (uintptr_t)on_received, (uintptr_t)on_sent,
};
