/* Learning on the device: ridge regression on one-hot targets, one example after the other, in fixed memory.
 *
 * Kept is the triangle R of a QR decomposition of all examples under the ridge, and Z, what it makes of the targets:
 * R'R = sum of x x' + ridge / dim I, R'Z = sum of x y'. An example is rotated in (Givens; Golub and Van Loan, Matrix
 * Computations, 6.5), which costs 2 dim^2 multiply-adds and never squares the condition of the problem, as the inverse of
 * a covariance does. The weights R^-1 Z are what edge.heads.fit_ridge solves exactly; that is the authority when a host is
 * there: it is sent every example, and its head takes the place of what was learnt here. */
#ifndef SOUNDKEEP_SK_UPDATE_H
#define SOUNDKEEP_SK_UPDATE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SK_UPDATE_MAX_DIM 128u
#define SK_UPDATE_MAX_CLASSES 64u
#define SK_UPDATE_NONE 255u /* an example of none of the classes: it keeps them from answering to everything */

/* Numbers of storage: the triangle, Z, the weights, and two rows. */
#define SK_UPDATE_STORAGE(dim, n_classes) ((dim) * ((dim) + 1u) / 2u + 2u * (dim) * (n_classes) + (dim))

typedef struct sk_update {
    float *triangle;   /* row i from its diagonal on */
    float *z;          /* dim rows of n_classes */
    float *weights;    /* the same */
    float *row;        /* the example under way, dim numbers */
    float ridge;       /* windows of unit length */
    uint32_t n_learnt; /* since the last reset; stays at its largest */
    uint16_t dim;
    uint8_t n_classes;
    uint8_t solved;    /* whether the weights are those of R and Z */
} sk_update;

/* storage: n numbers, see SK_UPDATE_STORAGE. ridge: windows, 2^-40 to 1e9 (edge: `[learn] ridge`). Returns 0, or -1 for
 * what is not allowed or does not fit. */
int sk_update_init(sk_update *u, float *storage, uint32_t n, uint16_t dim, uint8_t n_classes, float ridge);

/* Forget everything: a host's head has taken its place. */
void sk_update_reset(sk_update *u);

/* Learn one window. x: dim numbers of unit length or so (the grid's over its scale). index: a class, or SK_UPDATE_NONE.
 * Returns 0, or -1 for a class that is none or numbers that cannot be used; then nothing has changed. */
int sk_update_learn(sk_update *u, const float *x, uint8_t index);

/* Scores of a window: near 1 for what is like the examples of a class, near 0 for what is like none. scores: n_classes
 * numbers. All 0 before anything was learnt. Solves the weights when something new was learnt since. */
void sk_update_scores(sk_update *u, const float *x, float *scores);

#ifdef __cplusplus
}
#endif

#endif
