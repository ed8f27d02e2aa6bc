/* The example firmware: an ear that also recognises, and takes new heads over its line. */
#include "board.h"
#include "soundkeep/sk_device.h"
#include "soundkeep/sk_model.h"

#ifndef BANK_BYTES
#define BANK_BYTES SK_MODEL_BANK /* room for a head; there are two */
#endif

#ifndef APART
#define APART /* where a board has a second memory: the section for what no DMA touches */
#endif

#ifdef TEACH /* it may be taught without a host, which takes half of dim^2 numbers and some more */
#define CLASSES 12u
static struct {
    sk_lessons lessons;
    float storage[SK_UPDATE_STORAGE(SK_MODEL_DIM, CLASSES)];
    int16_t grids[SK_DEVICE_LESSONS * SK_MODEL_DIM];
} taught;
#endif

static struct {
    sk_device device;
    uint64_t memory[(SK_MEMORY(SK_MODEL_ARENA, SK_MODEL_DIM, BANK_BYTES) + 7u) / 8u];
} state;
static APART struct {
    int16_t window[SK_MODEL_WINDOW];
    uint8_t out[8192];
} apart;

int main(void)
{
    const sk_about me = {board_number(), SK_MODEL_SAMPLE_RATE, board_name, NULL, NULL, BOARD_BLOCK,
                         SK_FORMAT_PCM16 | SK_FORMAT_ADPCM | SK_FORMAT_LOG_MEL};
    sk_device *d = &state.device;
    uint32_t told = 0u, lost;
    const int16_t *block;
    uint8_t byte;
    if (sk_device_init(d, &me, state.memory, sizeof state.memory, apart.window, apart.out, sizeof apart.out) != SK_OK)
        return 1;
#ifdef TEACH
    if (sk_device_lets_teach(d, &taught.lessons, taught.storage, sizeof taught.storage / sizeof *taught.storage,
                             taught.grids, CLASSES, 1.0f) != 0)
        return 1;
#endif
    board_start(&d->link.out);
    sk_link_hello(&d->link);
    for (;;) {
        while (board_byte(&byte))
            sk_device_receive(d, byte);
        d->link.n_overruns = board_overruns();
        d->link.uptime_ms = board_ms();
        block = board_block(d->link.format != 0u, &lost);
        if (lost != 0u)
            sk_device_lost(d, lost);
        if (block != NULL)
            sk_device_hear(d, block, BOARD_BLOCK, board_waiting());
        if (board_ms() - told >= 1000u) {
            told = board_ms();
            d->link.stack_free = board_stack_free();
            if (!d->link.greeted)
                sk_link_hello(&d->link);
        }
        board_send();
        if (block == NULL && sk_ring_used(&d->link.out) == 0u)
            board_rest();
    }
}
