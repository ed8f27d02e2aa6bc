/* See sk_head.h. */
#include "soundkeep/sk_head.h"

#include "soundkeep/sk_bytes.h"
#include "soundkeep/sk_math.h"
#include "soundkeep/sk_packet.h"

#define MAGIC 0x31484B53u /* "SKH1" */
#define GRID 16384.0f
#define LARGEST 50.0f

enum { AT_VERSION = 4, AT_DIM = 8, AT_CLASSES = 10, AT_RIVALS = 11, AT_BYTES = 12, AT_EAR = 16, AT_SHARE = 24,
       AT_LOW_STEP = 28, AT_IGNORED = 32, AT_IGNORED_GAIN = 36, AT_IGNORED_BIAS = 40 };
/* Of a class, after its weights. */
enum { OFFSET = 0, OWN = 4, THRESHOLD = 8, GAIN = 12, BIAS = 16, REST = 20, LOG_COUNT = 24, ADMITTED = 28, NAME = 32 };

static const uint8_t *bytes_of(const sk_head *h, uint32_t bank) { return (const uint8_t *)h->bank[bank]; }

static uint8_t *spare(sk_head *h) { return (uint8_t *)h->bank[1u - h->active]; }

static uint32_t class_stride(uint32_t dim) { return 4u * dim + SK_HEAD_CLASS_EXTRA; }

static const uint8_t *class_row(const uint8_t *b, uint32_t index) {
    return b + SK_HEAD_FIXED + index * class_stride(sk_get16(b + AT_DIM));
}

static const uint8_t *rival_row(const uint8_t *b, uint32_t index) {
    uint32_t dim = sk_get16(b + AT_DIM);
    return class_row(b, b[AT_CLASSES]) + index * (4u * dim + SK_HEAD_RIVAL_EXTRA);
}

int sk_head_init(sk_head *h, float *storage, uint32_t storage_bytes, const uint8_t *ear, uint16_t dim) {
    uint32_t room;
    memset(h, 0, sizeof *h);
    if (dim == 0 || dim > SK_HEAD_MAX_DIM || storage_bytes < 4u * dim + 2u * SK_HEAD_FIXED)
        return -1;
    room = (storage_bytes - 4u * dim) / 2u / SK_HEAD_GRAIN * SK_HEAD_GRAIN;
    if (room > SK_HEAD_MAX_BYTES)
        room = SK_HEAD_MAX_BYTES;
    h->x = storage;
    h->bank[0] = storage + dim;
    h->bank[1] = storage + dim + room / 4u;
    h->bank_bytes = room;
    h->dim = dim;
    memcpy(h->ear, ear, sizeof h->ear);
    return 0;
}

static int is_zero(const uint8_t *p) {
    uint32_t i;
    for (i = 0; i < 8; i++)
        if (p[i])
            return 0;
    return 1;
}

static int is_other_ear(const sk_head *h, const uint8_t *ear) {
    return !is_zero(h->ear) && memcmp(ear, h->ear, 8) != 0;
}

static int all_finite(const uint8_t *p, uint32_t n) {
    uint32_t i;
    for (i = 0; i < n; i++)
        if ((sk_get32(p + 4u * i) & 0x7F800000u) == 0x7F800000u)
            return 0;
    return 1;
}

/* Whether the bytes are one whole head, whose every number can be used. n_bytes is known to fit a bank. */
static uint8_t examine(const sk_head *h, const uint8_t *b, uint32_t n_bytes) {
    uint32_t dim, n_classes, n_rivals, i, ignored;
    if (n_bytes < SK_HEAD_FIXED || sk_get32(b) != MAGIC || sk_get32(b + AT_BYTES) != n_bytes)
        return SK_STATUS_MALFORMED;
    dim = sk_get16(b + AT_DIM);
    n_classes = b[AT_CLASSES];
    n_rivals = b[AT_RIVALS];
    if (dim != h->dim || is_other_ear(h, b + AT_EAR))
        return SK_STATUS_OTHER_EAR;
    if (n_classes > SK_HEAD_MAX_CLASSES || n_rivals > SK_HEAD_MAX_RIVALS)
        return SK_STATUS_TOO_LARGE;
    ignored = sk_get32(b + AT_IGNORED);
    if (n_bytes != SK_HEAD_BYTES(dim, n_classes, n_rivals) || sk_get32(b + AT_VERSION) == 0 ||
        (ignored != SK_HEAD_NONE && ignored >= n_rivals) || !all_finite(b + AT_SHARE, 2) ||
        !all_finite(b + AT_IGNORED_GAIN, 2))
        return SK_STATUS_MALFORMED;
    for (i = 0; i < n_classes; i++) {
        const uint8_t *row = class_row(b, i);
        const uint8_t *rest = row + 4u * dim;
        if (!all_finite(row, dim + 7u) || sk_getf(rest + REST) < 0.0f || rest[NAME + SK_HEAD_NAME_BYTES - 1u] != 0)
            return SK_STATUS_MALFORMED;
    }
    for (i = 0; i < n_rivals; i++)
        if (!all_finite(rival_row(b, i), dim + 1u))
            return SK_STATUS_MALFORMED;
    return SK_STATUS_DONE;
}

uint8_t sk_head_load(sk_head *h, const uint8_t *data, uint32_t n_bytes) {
    uint8_t status;
    if (n_bytes > h->bank_bytes)
        return SK_STATUS_TOO_LARGE;
    status = examine(h, data, n_bytes);
    if (status != SK_STATUS_DONE)
        return status;
    memcpy(spare(h), data, n_bytes);
    h->other = SK_HEAD_PENDING;
    (void)sk_head_flip(h);
    return SK_STATUS_DONE;
}

uint8_t sk_head_begin(sk_head *h, uint32_t version, uint16_t dim, uint8_t n_classes, uint8_t n_rivals,
                      uint32_t n_bytes, uint32_t crc, const uint8_t *ear) {
    if (is_other_ear(h, ear) || dim != h->dim)
        return SK_STATUS_OTHER_EAR;
    if (n_bytes > h->bank_bytes || n_classes > SK_HEAD_MAX_CLASSES || n_rivals > SK_HEAD_MAX_RIVALS)
        return SK_STATUS_TOO_LARGE;
    if (version == 0 || n_bytes != SK_HEAD_BYTES(dim, (uint32_t)n_classes, (uint32_t)n_rivals))
        return SK_STATUS_MALFORMED;
    (void)sk_head_flip(h); /* one that was promised is in use before its bank is filled anew */
    h->other = SK_HEAD_FILLING;
    h->next_version = version;
    h->next_bytes = n_bytes;
    h->next_crc = crc;
    h->next_dim = dim;
    h->next_classes = n_classes;
    h->next_rivals = n_rivals;
    memset(h->arrived, 0, sizeof h->arrived);
    return SK_STATUS_DONE;
}

uint8_t sk_head_chunk(sk_head *h, uint32_t version, uint32_t offset, const uint8_t *data, uint32_t n_bytes) {
    uint32_t grain, end;
    if (h->other == SK_HEAD_EMPTY || version != h->next_version)
        return SK_STATUS_NO_BEGIN;
    if (offset > h->next_bytes || n_bytes > h->next_bytes - offset || offset % SK_HEAD_GRAIN)
        return SK_STATUS_MALFORMED;
    end = offset + n_bytes;
    if (n_bytes == 0 || (end % SK_HEAD_GRAIN && end != h->next_bytes))
        return SK_STATUS_MALFORMED;
    if (h->other == SK_HEAD_PENDING)
        return SK_STATUS_DONE; /* a late copy: all of it is there and right */
    memcpy(spare(h) + offset, data, n_bytes);
    for (grain = offset / SK_HEAD_GRAIN; grain * SK_HEAD_GRAIN < end; grain++)
        h->arrived[grain / 8u] = (uint8_t)(h->arrived[grain / 8u] | (1u << (grain % 8u)));
    return SK_STATUS_DONE;
}

uint8_t sk_head_commit(sk_head *h, uint32_t version) {
    const uint8_t *b = spare(h);
    uint32_t grain;
    uint8_t status;
    if (h->other != SK_HEAD_FILLING || version != h->next_version) {
        if ((h->other == SK_HEAD_PENDING && version == h->next_version) || (version && sk_head_version(h) == version))
            return SK_STATUS_DONE; /* a late copy */
        return SK_STATUS_NO_BEGIN;
    }
    for (grain = 0; grain * SK_HEAD_GRAIN < h->next_bytes; grain++)
        if (!(h->arrived[grain / 8u] & (1u << (grain % 8u))))
            return SK_STATUS_INCOMPLETE;
    if (sk_crc32(0, b, h->next_bytes) != h->next_crc)
        return SK_STATUS_WRONG_CRC;
    status = examine(h, b, h->next_bytes);
    if (status == SK_STATUS_DONE && (sk_get32(b + AT_VERSION) != version || b[AT_CLASSES] != h->next_classes))
        status = SK_STATUS_MALFORMED;
    h->other = status == SK_STATUS_DONE ? SK_HEAD_PENDING : SK_HEAD_EMPTY;
    return status;
}

int sk_head_flip(sk_head *h) {
    if (h->other != SK_HEAD_PENDING)
        return 0;
    h->active = (uint8_t)(1u - h->active);
    h->used = 1;
    h->other = SK_HEAD_EMPTY;
    h->n_flips++;
    return 1;
}

uint32_t sk_head_version(const sk_head *h) { return h->used ? sk_get32(bytes_of(h, h->active) + AT_VERSION) : 0u; }

uint8_t sk_head_n_classes(const sk_head *h) {
    return h->used ? bytes_of(h, h->active)[AT_CLASSES] : (uint8_t)0;
}

uint8_t sk_head_n_rivals(const sk_head *h) {
    return h->used ? bytes_of(h, h->active)[AT_RIVALS] : (uint8_t)0;
}

static const uint8_t *rest_of(const sk_head *h, uint8_t index) {
    return class_row(bytes_of(h, h->active), index) + 4u * h->dim;
}

const char *sk_head_name(const sk_head *h, uint8_t index) {
    return index < sk_head_n_classes(h) ? (const char *)(rest_of(h, index) + NAME) : "";
}

float sk_head_threshold(const sk_head *h, uint8_t index) {
    return index < sk_head_n_classes(h) ? sk_getf(rest_of(h, index) + THRESHOLD) : 0.0f;
}

static float dot(const uint8_t *row, const float *x, uint32_t dim) {
    const float *w = (const float *)(const void *)row; /* rows are float aligned, see SK_HEAD_CLASS_EXTRA */
    float sum = 0.0f;
    uint32_t i;
    for (i = 0; i < dim; i++)
        sum += w[i] * x[i];
    return sum;
}

/* The embedding at unit length on the grid. Returns 0 for what has no direction. */
static int on_grid(const sk_head *h, const float *embedding) {
    float norm = 0.0f, scale, value;
    uint32_t i;
    float largest = 0.0f;
    for (i = 0; i < h->dim; i++) {
        value = embedding[i] < 0.0f ? -embedding[i] : embedding[i];
        if (!(value <= 3.0e38f))
            return 0;
        if (value > largest)
            largest = value;
    }
    if (largest < 1.0e-30f)
        return 0;
    for (i = 0; i < h->dim; i++) {
        value = embedding[i] / largest;
        norm += value * value;
    }
    scale = GRID / sk_sqrt(norm);
    for (i = 0; i < h->dim; i++)
        h->x[i] = (float)sk_round_even(embedding[i] / largest * scale) / GRID;
    return 1;
}

uint8_t sk_head_scores(const sk_head *h, const float *embedding, float *scores) {
    const uint8_t *b, *rest;
    float exps[SK_HEAD_MAX_RIVALS], ignored_z = 0.0f, z, total;
    uint32_t dim = h->dim, c, j, n_classes, n_rivals, admitted, ignored;
    if (!h->used || !on_grid(h, embedding))
        return 0;
    b = bytes_of(h, h->active);
    n_classes = b[AT_CLASSES];
    n_rivals = b[AT_RIVALS];
    ignored = sk_get32(b + AT_IGNORED);
    for (j = 0; j < n_rivals; j++) {
        z = dot(rival_row(b, j), h->x, dim) - sk_getf(rival_row(b, j) + 4u * dim);
        if (j == ignored)
            ignored_z = z;
        exps[j] = sk_exp(z > LARGEST ? LARGEST : z);
    }
    for (c = 0; c < n_classes; c++) {
        rest = class_row(b, c) + 4u * dim;
        z = dot(class_row(b, c), h->x, dim) - sk_getf(rest + OFFSET);
        admitted = sk_get32(rest + ADMITTED);
        total = sk_getf(rest + REST);
        for (j = 0; j < n_rivals; j++)
            if (admitted & ((uint32_t)1 << j))
                total += exps[j];
        scores[c] = z - sk_getf(rest + OWN);
        if (total > 0.0f)
            scores[c] += sk_getf(rest + LOG_COUNT) - sk_log(total);
        if (ignored != SK_HEAD_NONE && !(admitted & ((uint32_t)1 << ignored)) && scores[c] > 0.0f &&
            ignored_z * sk_getf(b + AT_IGNORED_GAIN) + sk_getf(b + AT_IGNORED_BIAS) >
                z * sk_getf(rest + GAIN) + sk_getf(rest + BIAS))
            scores[c] = 0.0f;
    }
    return (uint8_t)n_classes;
}

int16_t sk_head_decide(const sk_head *h, const float *scores) {
    const uint8_t *b = bytes_of(h, h->active);
    float largest = 0.0f, best = 0.0f, margin;
    int16_t answer = -1;
    uint8_t c, n = sk_head_n_classes(h);
    for (c = 0; c < n; c++)
        if (scores[c] > largest)
            largest = scores[c];
    for (c = 0; c < n; c++) {
        margin = scores[c] - sk_head_threshold(h, c);
        if (margin >= 0.0f && scores[c] >= sk_getf(b + AT_SHARE) * largest && (answer < 0 || margin > best)) {
            best = margin;
            answer = (int16_t)c;
        }
    }
    return answer;
}
