/* See sk_update.h. */
#include "soundkeep/sk_update.h"

#include "soundkeep/sk_math.h"

#define LEAST_RIDGE 9.0e-13f /* the edge's, 2^-40; the square of its root must be a normal number */
#define LARGEST 16.0f /* of a number of an example; an embedding of unit length has none above 1 */

int sk_update_init(sk_update *u, float *storage, uint32_t n, uint16_t dim, uint8_t n_classes, float ridge)
{
    if (dim == 0u || dim > SK_UPDATE_MAX_DIM || n_classes == 0u || n_classes > SK_UPDATE_MAX_CLASSES)
        return -1;
    if (n < SK_UPDATE_STORAGE((uint32_t)dim, (uint32_t)n_classes) || !(ridge >= LEAST_RIDGE && ridge <= 1.0e9f))
        return -1;
    u->dim = dim;
    u->n_classes = n_classes;
    u->ridge = ridge;
    u->triangle = storage;
    u->z = u->triangle + (uint32_t)dim * (dim + 1u) / 2u;
    u->weights = u->z + (uint32_t)dim * n_classes;
    u->row = u->weights + (uint32_t)dim * n_classes;
    sk_update_reset(u);
    return 0;
}

void sk_update_reset(sk_update *u)
{
    const uint32_t n = (uint32_t)u->dim * u->n_classes;
    const float diagonal = sk_sqrt(u->ridge / (float)u->dim);
    float *r = u->triangle;
    uint32_t i, j;
    for (i = 0u; i < u->dim; i++)
        for (j = i; j < u->dim; j++)
            *r++ = i == j ? diagonal : 0.0f;
    for (i = 0u; i < n; i++)
        u->z[i] = u->weights[i] = 0.0f;
    u->n_learnt = 0u;
    u->solved = 1u;
}

int sk_update_learn(sk_update *u, const float *x, uint8_t index)
{
    const uint32_t dim = u->dim, k = u->n_classes;
    float target[SK_UPDATE_MAX_CLASSES];
    float *r = u->triangle, *z = u->z;
    uint32_t i, j;
    if (index != SK_UPDATE_NONE && index >= k)
        return -1;
    for (i = 0u; i < dim; i++)
        if (!(x[i] >= -LARGEST && x[i] <= LARGEST))
            return -1;
    for (i = 0u; i < dim; i++)
        u->row[i] = x[i];
    for (j = 0u; j < k; j++)
        target[j] = j == index ? 1.0f : 0.0f;
    for (i = 0u; i < dim; i++, z += k) {
        const float a = r[0], b = u->row[i], length = sk_sqrt(a * a + b * b);
        const float c = a / length, s = b / length;
        r[0] = length;
        for (j = 1u; j < dim - i; j++) {
            const float above = r[j], below = u->row[i + j];
            r[j] = c * above + s * below;
            u->row[i + j] = c * below - s * above;
        }
        r += dim - i;
        for (j = 0u; j < k; j++) {
            const float above = z[j], below = target[j];
            z[j] = c * above + s * below;
            target[j] = c * below - s * above;
        }
    }
    if (u->n_learnt < UINT32_MAX)
        u->n_learnt++;
    u->solved = 0u;
    return 0;
}

/* Back substitution: R W = Z, from the last row up. */
static void solve(sk_update *u)
{
    const uint32_t dim = u->dim, k = u->n_classes;
    const float *r = u->triangle + dim * (dim + 1u) / 2u;
    uint32_t i, j, c;
    for (i = dim; i-- > 0u;) {
        float *w = u->weights + i * k;
        const float *z = u->z + i * k;
        r -= dim - i;
        for (c = 0u; c < k; c++) {
            float sum = z[c];
            for (j = 1u; j < dim - i; j++)
                sum -= r[j] * w[j * k + c];
            w[c] = sum / r[0];
        }
    }
    u->solved = 1u;
}

void sk_update_scores(sk_update *u, const float *x, float *scores)
{
    const uint32_t k = u->n_classes;
    uint32_t i, c;
    if (!u->solved)
        solve(u);
    for (c = 0u; c < k; c++) {
        float sum = 0.0f;
        for (i = 0u; i < u->dim; i++)
            sum += u->weights[i * k + c] * x[i];
        scores[c] = sum;
    }
}
