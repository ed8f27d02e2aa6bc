/* Runs windows that the emulator put into memory and hands back what came of them: embeddings, features, counts.
 *
 * In: uint32 number of windows, uint32 samples from one to the next, then the samples. Out: for each window uint32
 * instructions, the embedding (float), the grid (int16), with FEATURES the int8 features; at the end uint32 bytes of stack
 * that were used. */
#include "start.h"

#include "soundkeep/sk_ear.h"
#include "soundkeep/sk_frontend.h"
#include "soundkeep/sk_model.h"

#define GUARD 64u

static union {
    uint64_t aligned;
    unsigned char bytes[ARENA + GUARD];
} arena;

static float embedding[SK_MODEL_DIM];
static int16_t grid[SK_MODEL_DIM];

static void measure(void)
{
    const uint32_t *head = (const uint32_t *)GIVEN;
    const int16_t *pcm = (const int16_t *)(GIVEN + 8u);
    const uint32_t n = head[0], hop = head[1];
    uint32_t i, k;
    sk_ear ear;
    memset(arena.bytes, 0xC3, sizeof arena.bytes);
    if (sk_ear_init(&ear, &MODEL, arena.bytes, ARENA) != SK_OK)
        return;
    for (i = 0u; i < n; i++, pcm += hop) {
        uint32_t start, taken;
        start = started();
        sk_ear_embed(&ear, pcm, embedding);
        sk_to_grid(embedding, SK_MODEL_DIM, SK_MODEL_GRID, grid);
        taken = taken_since(start);
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
