/* Polynomials of the Cephes library (Moshier, public domain), in a fixed order of operations. */
#include "soundkeep/sk_math.h"

#include <string.h>

#define SMALLEST_NORMAL 1.17549435e-38f

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

float sk_log(float x)
{
    uint32_t bits;
    float exponent, m, z, y;
    if (!(x > SMALLEST_NORMAL))
        x = SMALLEST_NORMAL;
    bits = bits_of(x);
    exponent = (float)((int32_t)(bits >> 23) - 126);
    m = from_bits((bits & 0x007fffffu) | 0x3f000000u); /* 0.5 <= m < 1 */
    if (m < 0.707106781f) {
        exponent -= 1.0f;
        m = m + m - 1.0f;
    } else {
        m = m - 1.0f;
    }
    z = m * m;
    y = 7.0376836292e-2f;
    y = y * m - 1.1514610310e-1f;
    y = y * m + 1.1676998740e-1f;
    y = y * m - 1.2420140846e-1f;
    y = y * m + 1.4249322787e-1f;
    y = y * m - 1.6668057665e-1f;
    y = y * m + 2.0000714765e-1f;
    y = y * m - 2.4999993993e-1f;
    y = y * m + 3.3333331174e-1f;
    y = y * m * z;
    y += -2.12194440e-4f * exponent;
    y += -0.5f * z;
    return m + y + 0.693359375f * exponent;
}

float sk_exp(float x)
{
    float n, y;
    int32_t power;
    if (!(x > -87.0f))
        x = -87.0f;
    if (x > 88.0f)
        x = 88.0f;
    power = sk_round(1.44269504f * x);
    n = (float)power;
    x -= n * 0.693359375f;
    x -= n * -2.12194440e-4f;
    y = 1.9875691500e-4f;
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * (x * x) + x + 1.0f;
    return y * from_bits((uint32_t)(power + 127) << 23);
}

float sk_sqrt(float x)
{
    float y;
    if (!(x > 0.0f))
        return 0.0f;
    if (x < SMALLEST_NORMAL)
        return 0.0f;
    y = from_bits((bits_of(x) >> 1) + 0x1fbb4f2eu);
    y = 0.5f * (y + x / y);
    y = 0.5f * (y + x / y);
    return 0.5f * (y + x / y);
}

int32_t sk_round(float x)
{
    return x < 0.0f ? (int32_t)(x - 0.5f) : (int32_t)(x + 0.5f);
}

int32_t sk_round_even(float x)
{
    /* Above 2^23 a float holds whole numbers only: adding it rounds as the processor rounds, to even. volatile keeps a
     * compiler from taking it back. */
    volatile float lifted = x + 12582912.0f;
    return (int32_t)(lifted - 12582912.0f);
}
