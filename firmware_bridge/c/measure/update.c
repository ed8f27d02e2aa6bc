/* Learns examples that the emulator put into memory, as sk_update does, and hands back what came of it.
 *
 * In: uint32 n, dim, n_classes, float ridge, then n examples: dim floats and an uint32 class each. Out: uint32 instructions
 * of each update and, after the last, of the solution of the weights; the weights (dim rows of n_classes floats); uint32
 * bytes of stack that were used. */
#include "start.h"

#include "soundkeep/sk_update.h"

static float storage[SK_UPDATE_STORAGE(SK_UPDATE_MAX_DIM, 16u)];

static void measure(void)
{
    const uint32_t *head = (const uint32_t *)GIVEN;
    const uint32_t n = head[0], dim = head[1], n_classes = head[2];
    const float *given = (const float *)(GIVEN + 16u);
    float ridge, scores[16];
    uint32_t i, start, taken;
    sk_update update;
    memcpy(&ridge, head + 3, sizeof ridge);
    if (sk_update_init(&update, storage, sizeof storage / sizeof *storage, (uint16_t)dim, (uint8_t)n_classes, ridge) != 0)
        return;
    for (i = 0u; i < n; i++, given += dim + 1u) {
        uint32_t index;
        memcpy(&index, given + dim, sizeof index);
        start = started();
        if (sk_update_learn(&update, given, (uint8_t)index) != 0)
            return;
        taken = taken_since(start);
        put(&taken, sizeof taken);
    }
    start = started();
    sk_update_scores(&update, (const float *)(GIVEN + 16u), scores);
    taken = taken_since(start);
    put(&taken, sizeof taken);
    put(update.weights, dim * n_classes * (uint32_t)sizeof(float));
    taken = stack_used();
    put(&taken, sizeof taken);
}
