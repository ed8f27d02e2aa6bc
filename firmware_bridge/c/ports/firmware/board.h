/* What a board gives to the firmware: a clock, a serial line and a microphone. Interrupts fill and empty the rings, all
 * else is called by main. A port is a board.c, a link.ld and a Makefile. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

#include "soundkeep/sk_ring.h"

#define BOARD_BLOCK 320u /* samples that the microphone hands over: 20 ms at 16 kHz */

extern const char board_name[];

/* out: what the line sends. */
void board_start(sk_ring *out);

uint32_t board_ms(void);

/* Has the line send what is in out. */
void board_send(void);

/* Next byte from the line. Returns 0 when there is none. */
int board_byte(uint8_t *byte);

/* Bytes that came while nobody took them. */
uint32_t board_overruns(void);

/* The microphone's next block, or NULL when none is whole yet. *lost: samples before it that nobody took in time.
 * listening: whether sound is sent; where the line sets the pace, the recording stands still until then. */
const int16_t *board_block(int listening, uint32_t *lost);

/* Samples that the microphone has ready behind that block. */
uint32_t board_waiting(void);

/* A number that is another one at each start. */
uint32_t board_number(void);

/* Bytes of stack that were never used. */
uint32_t board_stack_free(void);

/* Sleep until an interrupt. */
void board_rest(void);

#endif
