/* STM32F407 at 168 MHz from a crystal of 8 MHz, an I2S microphone on SPI2, the serial line on USART2 (reference manual
 * RM0090). Where the clock does not start (an emulator has none), it stays at the 16 MHz of the chip's own. */
#include "board.h"

#define BAUD 921600u
#define MIC_BLOCKS 36u /* 0.7 s, for the time that a window takes to be judged */
#define GAIN_SHIFT 2u  /* an INMP441 gives -26 dBFS at 94 dB: four times louder suits int16 */
#define PATIENCE 100000u
#define FRESH 0xA5A5A5A5u

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define RCC 0x40023800u
#define RCC_CR REGISTER(RCC)
#define RCC_PLLCFGR REGISTER(RCC + 0x04u)
#define RCC_CFGR REGISTER(RCC + 0x08u)
#define RCC_AHB1ENR REGISTER(RCC + 0x30u)
#define RCC_AHB2ENR REGISTER(RCC + 0x34u)
#define RCC_APB1ENR REGISTER(RCC + 0x40u)
#define RCC_PLLI2SCFGR REGISTER(RCC + 0x84u)
#define FLASH_ACR REGISTER(0x40023C00u)
#define GPIOA 0x40020000u
#define GPIOB 0x40020400u
#define MODER(port) REGISTER((port))
#define SPEED(port) REGISTER((port) + 0x08u)
#define AFRL(port) REGISTER((port) + 0x20u)
#define AFRH(port) REGISTER((port) + 0x24u)
#define USART2 0x40004400u
#define USART_SR REGISTER(USART2)
#define USART_DR REGISTER(USART2 + 0x04u)
#define USART_BRR REGISTER(USART2 + 0x08u)
#define USART_CR1 REGISTER(USART2 + 0x0Cu)
#define SPI2 0x40003800u
#define SPI_CR2 REGISTER(SPI2 + 0x04u)
#define SPI_DR_ADDRESS (SPI2 + 0x0Cu)
#define SPI_I2SCFGR REGISTER(SPI2 + 0x1Cu)
#define SPI_I2SPR REGISTER(SPI2 + 0x20u)
#define DMA1 0x40026000u
#define DMA_LIFCR REGISTER(DMA1 + 0x08u)
#define DMA_LISR REGISTER(DMA1)
#define DMA_S3CR REGISTER(DMA1 + 0x58u)
#define DMA_S3NDTR REGISTER(DMA1 + 0x5Cu)
#define DMA_S3PAR REGISTER(DMA1 + 0x60u)
#define DMA_S3M0AR REGISTER(DMA1 + 0x64u)
#define RNG_CR REGISTER(0x50060800u)
#define RNG_SR REGISTER(0x50060804u)
#define RNG_DR REGISTER(0x50060808u)
#define SYSTICK_CONTROL REGISTER(0xE000E010u)
#define SYSTICK_RELOAD REGISTER(0xE000E014u)
#define SYSTICK_VALUE REGISTER(0xE000E018u)
#define IRQ_ENABLE_0 REGISTER(0xE000E100u)
#define IRQ_ENABLE_1 REGISTER(0xE000E104u)
#define COPROCESSORS REGISTER(0xE000ED88u)
#define IRQ_DMA1_STREAM3 14u
#define IRQ_USART2 38u

#define USART_RXNE (1u << 5)
#define USART_TXE (1u << 7)
#define USART_ORE (1u << 3)
#define WORDS_OF_FRAME 4u /* halfwords of a stereo frame of 2 x 32 bits; the microphone speaks in the first two */

extern uint32_t data_begin[], data_end[], data_source[], bss_begin[], bss_end[], apart_begin[], apart_end[];
extern uint32_t stack_low[], stack_high[];
int main(void);
void board_begin(void);

const char board_name[] = "stm32f407";

static struct {
    sk_ring *out;
    sk_ring in;
    volatile uint32_t ms, n_overruns;
    volatile uint32_t n_filled; /* blocks that the microphone has finished */
    uint32_t n_taken, hz, number;
    uint8_t received[4096];
    uint16_t arriving[2u][BOARD_BLOCK * WORDS_OF_FRAME]; /* DMA fills one half while the other is put away */
    int16_t blocks[MIC_BLOCKS][BOARD_BLOCK];
} board;

uint32_t board_ms(void) { return board.ms; }

uint32_t board_overruns(void) { return board.n_overruns; }

uint32_t board_number(void) { return board.number; }

void board_rest(void) { __asm__ volatile("wfi"); }

uint32_t board_stack_free(void)
{
    const uint32_t *p = stack_low;
    while (p < stack_high && *p == FRESH)
        p++;
    return (uint32_t)((uintptr_t)p - (uintptr_t)stack_low);
}

static int waits_for(uint32_t address, uint32_t bits)
{
    uint32_t i;
    for (i = 0u; i < PATIENCE; i++)
        if ((REGISTER(address) & bits) == bits)
            return 1;
    return 0;
}

/* 8 MHz / 8 * 336 / 2 = 168 MHz; APB1 at 42 MHz. Returns the frequency of APB1. */
static uint32_t start_clock(void)
{
    RCC_CR |= 1u << 16;
    if (!waits_for(RCC, 1u << 17))
        return 16000000u;
    FLASH_ACR = 5u | (7u << 8);
    RCC_PLLCFGR = 8u | (336u << 6) | (0u << 16) | (1u << 22) | (7u << 24);
    RCC_PLLI2SCFGR = (256u << 6) | (2u << 28); /* 128 MHz for the microphone */
    RCC_CR |= (1u << 24) | (1u << 26);
    if (!waits_for(RCC, 1u << 25))
        return 16000000u;
    RCC_CFGR = (5u << 10) | (4u << 13) | 2u;
    board.hz = 168000000u;
    return 42000000u;
}

static void alternate(uint32_t port, uint32_t pin, uint32_t function)
{
    MODER(port) = (MODER(port) & ~(3u << (2u * pin))) | (2u << (2u * pin));
    SPEED(port) |= 2u << (2u * pin);
    if (pin < 8u)
        AFRL(port) = (AFRL(port) & ~(15u << (4u * pin))) | (function << (4u * pin));
    else
        AFRH(port) = (AFRH(port) & ~(15u << (4u * (pin - 8u)))) | (function << (4u * (pin - 8u)));
}

/* 128 MHz / (64 bits of a frame * (2 * 62 + 1)) = 16000 Hz. Data of 24 bits in 32, standard of Philips. */
static void start_microphone(void)
{
    alternate(GPIOB, 10u, 5u);
    alternate(GPIOB, 12u, 5u);
    alternate(GPIOB, 15u, 5u);
    DMA_S3PAR = SPI_DR_ADDRESS;
    DMA_S3M0AR = (uint32_t)(uintptr_t)board.arriving;
    DMA_S3NDTR = 2u * BOARD_BLOCK * WORDS_OF_FRAME;
    DMA_S3CR = (1u << 13) | (1u << 11) | (1u << 10) | (1u << 8) | (1u << 4) | (1u << 3); /* 16 bits, circular, both halves */
    DMA_S3CR |= 1u;
    SPI_I2SPR = 62u | (1u << 8);
    SPI_CR2 = 1u;
    SPI_I2SCFGR = (1u << 11) | (3u << 8) | (1u << 1) | 1u;
    SPI_I2SCFGR |= 1u << 10;
    IRQ_ENABLE_0 = 1u << IRQ_DMA1_STREAM3;
}

static void draw_number(void)
{
    RNG_CR = 4u;
    board.number = waits_for(0x50060804u, 1u) ? RNG_DR : SYSTICK_VALUE ^ 0x534B0001u;
}

void board_start(sk_ring *out)
{
    board.out = out;
    IRQ_ENABLE_1 = 1u << (IRQ_USART2 - 32u);
    USART_CR1 = (1u << 13) | (1u << 5) | (1u << 3) | (1u << 2);
    start_microphone();
    __asm__ volatile("cpsie i" ::: "memory");
}

static int send_next(void)
{
    uint8_t byte;
    if (sk_ring_get(board.out, &byte, 1u) == 0u)
        return 0;
    USART_DR = byte;
    return 1;
}

/* Begins; the interrupt goes on as long as the ring has bytes. */
void board_send(void)
{
    __asm__ volatile("cpsid i" ::: "memory");
    while ((USART_SR & USART_TXE) != 0u && send_next()) {
    }
    if (sk_ring_used(board.out) != 0u)
        USART_CR1 |= 1u << 7;
    __asm__ volatile("cpsie i" ::: "memory");
}

int board_byte(uint8_t *byte) { return (int)sk_ring_get(&board.in, byte, 1u); }

const int16_t *board_block(int listening, uint32_t *lost)
{
    const uint32_t waiting = board.n_filled - board.n_taken;
    (void)listening;
    *lost = 0u;
    if (waiting == 0u)
        return 0;
    if (waiting > MIC_BLOCKS - 2u) { /* the one that is written next must not be read */
        *lost = (waiting - (MIC_BLOCKS - 2u)) * BOARD_BLOCK;
        board.n_taken += waiting - (MIC_BLOCKS - 2u);
    }
    return board.blocks[board.n_taken++ % MIC_BLOCKS];
}

uint32_t board_waiting(void) { return (board.n_filled - board.n_taken) * BOARD_BLOCK; }

static void on_tick(void) { board.ms++; }

static void on_usart(void)
{
    const uint32_t status = USART_SR;
    uint8_t byte;
    if ((status & (USART_RXNE | USART_ORE)) != 0u) {
        byte = (uint8_t)USART_DR;
        if ((status & USART_ORE) != 0u)
            board.n_overruns++;
        if (!sk_ring_put(&board.in, &byte, 1u))
            board.n_overruns++;
    }
    if ((status & USART_TXE) != 0u && !send_next())
        USART_CR1 &= ~(1u << 7);
}

/* One half of what arrives is whole: its left channel becomes a block. */
static void on_microphone(void)
{
    const uint32_t half = (DMA_LISR & (1u << 26)) != 0u ? 0u : 1u;
    const uint16_t *from = board.arriving[half];
    int16_t *to = board.blocks[board.n_filled % MIC_BLOCKS];
    uint32_t i;
    DMA_LIFCR = 0x3Fu << 22;
    for (i = 0u; i < BOARD_BLOCK; i++) {
        const uint32_t bits = ((uint32_t)from[WORDS_OF_FRAME * i] << 16) | from[WORDS_OF_FRAME * i + 1u];
        const int32_t value = (int32_t)bits / (1 << (16u - GAIN_SHIFT));
        to[i] = (int16_t)(value > 32767 ? 32767 : value < -32768 ? -32768 : value);
    }
    board.n_filled++;
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
    uint32_t apb1;
    for (p = data_begin; p < data_end;)
        *p++ = *from++;
    for (p = bss_begin; p < bss_end;)
        *p++ = 0u;
    for (p = apart_begin; p < apart_end;)
        *p++ = 0u;
    for (p = stack_low; (uintptr_t)p + 256u < (uintptr_t)stack_high; p++) /* this function's own lies at the end */
        *p = FRESH;
    board.hz = 16000000u;
    apb1 = start_clock();
    RCC_AHB1ENR |= 3u | (1u << 21);
    RCC_AHB2ENR |= 1u << 6;
    RCC_APB1ENR |= (1u << 14) | (1u << 17);
    SYSTICK_RELOAD = board.hz / 1000u - 1u;
    SYSTICK_VALUE = 0u;
    SYSTICK_CONTROL = 7u;
    draw_number();
    alternate(GPIOA, 2u, 7u);
    alternate(GPIOA, 3u, 7u);
    USART_BRR = (apb1 + BAUD / 2u) / BAUD;
    sk_ring_init(&board.in, board.received, sizeof board.received);
    (void)main();
    on_fault();
}

void board_begin(void)
{
    COPROCESSORS |= 0xFu << 20;
    __asm__ volatile("dsb\n isb");
    work();
}

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16 + 82] = {
    [0] = (uintptr_t)stack_high, [1] = (uintptr_t)board_begin, [2] = (uintptr_t)on_fault, [3] = (uintptr_t)on_fault,
    [4] = (uintptr_t)on_fault, [5] = (uintptr_t)on_fault, [6] = (uintptr_t)on_fault, [15] = (uintptr_t)on_tick,
    [16 + IRQ_DMA1_STREAM3] = (uintptr_t)on_microphone, [16 + IRQ_USART2] = (uintptr_t)on_usart,
};
