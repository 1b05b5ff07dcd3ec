// Written by coefficients.py; do not edit. Lowest power first.
#pragma once

namespace binxent {

template <class T>
struct Coefficients;

template <>
struct Coefficients<float> {
    // exp(r) = 1 + r + r² · P(r), |r| ≤ ln 2 / 2; relative error at most 2^-28.0
    static constexpr float exp[] = {0x1.fffff80000000p-2f, 0x1.55548e0000000p-3f, 0x1.555b960000000p-5f, 0x1.123bcc0000000p-7f, 0x1.68532c0000000p-10f};
    // log1p(e) = ¾·e + e · P(e), 0 ≤ e ≤ 1; relative error at most 2^-27.3
    static constexpr float log1p[] = {0x1.0000000000000p-2f, -0x1.ffffcc0000000p-2f, 0x1.554d220000000p-2f, -0x1.ff160a0000000p-3f, 0x1.9305f60000000p-3f, -0x1.39818c0000000p-3f, 0x1.b233260000000p-4f, -0x1.d1f56a0000000p-5f, 0x1.443a380000000p-6f, -0x1.a6f30a0000000p-9f};
    // log(1 + f) = f + f² · P(f), 1/√2 ≤ 1 + f ≤ √2; relative error at most 2^-27.7
    static constexpr float log[] = {-0x1.fffff80000000p-2f, 0x1.5555580000000p-2f, -0x1.0004320000000p-2f, 0x1.99a0160000000p-3f, -0x1.5422b00000000p-3f, 0x1.22b8be0000000p-3f, -0x1.0fa3840000000p-3f, 0x1.06b5200000000p-3f, -0x1.325ab00000000p-4f};
};

template <>
struct Coefficients<double> {
    // exp(r) = 1 + r + r² · P(r), |r| ≤ ln 2 / 2; relative error at most 2^-57.8
    static constexpr double exp[] = {0x1.000000000000bp-1, 0x1.555555555550fp-3, 0x1.55555555502a6p-5, 0x1.1111111122b4fp-7, 0x1.6c16c18529f74p-10, 0x1.a01a014493a95p-13, 0x1.a01997cd32dd4p-16, 0x1.71deec77b25ddp-19, 0x1.28af3b651cd0bp-22, 0x1.add741be6cfcap-26};
    // log1p(e) = ¾·e + e · P(e), 0 ≤ e ≤ 1; relative error at most 2^-58.8
    static constexpr double log1p[] = {0x1.0000000000000p-2, -0x1.fffffffffffebp-2, 0x1.5555555554579p-2, -0x1.ffffffff77371p-3, 0x1.99999986976dep-3, -0x1.555553ba6d193p-3, 0x1.249231fad42edp-3, -0x1.fffe25c67e104p-4, 0x1.c70e6a45ca1c2p-4, -0x1.99488e357df12p-4, 0x1.72efb03a572d9p-4, -0x1.503869109a197p-4, 0x1.2c50827ba42a8p-4, -0x1.01c9e3090ae97p-4, 0x1.9ac714d3777d2p-5, -0x1.23a4a894fe66dp-5, 0x1.61637a6910771p-6, -0x1.5d041aa7510e6p-7, 0x1.0a604160caf5ep-8, -0x1.24379020adca2p-10, 0x1.979960993c394p-13, -0x1.0e637d492286ap-16};
    // log(1 + f) = f + f² · P(f), 1/√2 ≤ 1 + f ≤ √2; relative error at most 2^-58.9
    static constexpr double log[] = {-0x1.0000000000000p-1, 0x1.555555555556fp-2, -0x1.ffffffffffe54p-3, 0x1.99999999946f2p-3, -0x1.555555556dc05p-3, 0x1.249249277ee5cp-3, -0x1.fffffff19379fp-4, 0x1.c71c70228f753p-4, -0x1.99999b0aa7984p-4, 0x1.745d5a357fd00p-4, -0x1.55556aa73ef09p-4, 0x1.3b0d57a39416ep-4, -0x1.248a1b1898744p-4, 0x1.116c40df92bbfp-4, -0x1.00c7ce122402ep-4, 0x1.dc64f46e38294p-5, -0x1.b4a53621f7de2p-5, 0x1.bcee3ad28b594p-5, -0x1.010304385109dp-4, 0x1.cf57d3b74cc84p-5, -0x1.8804c5c4713f2p-6};
};

}  // namespace binxent
