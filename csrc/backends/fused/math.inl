// Element-wise functions on vectors. Included inside the anonymous namespace of each kernels_<isa>.cpp.
//
// exp, tanh and log use the polynomials of the Cephes library (S. Moshier, expf.c, tanhf.c, logf.c). erfc is
// a polynomial in t = 1 / (1 + z/2) for log(erfc(z) exp(z^2) / t), degree 9, interpolated at the Chebyshev
// points of z in [0, 10.5]: relative error 6e-8 in exact arithmetic. test_fused_math.cpp states and checks
// the error of every function in float32. All of them let a NaN through.

FUSED_INLINE Vector scale_by_power(Vector v, IntVector n) {
  // In two factors, so that results beyond the normal range come out right: infinite, subnormal or zero.
  const IntVector half = n >> 1;
  const Vector first = from_bits((half + 127) << 23);
  const Vector second = from_bits((n - half + 127) << 23);
  return v * first * second;
}

/// exp(r) - 1, |r| <= 0.38
FUSED_INLINE Vector expm1_near_zero(Vector r) {
  Vector p = splat(1.9875691500e-4F);
  p = fma(p, r, splat(1.3981999507e-3F));
  p = fma(p, r, splat(8.3334519073e-3F));
  p = fma(p, r, splat(4.1665795894e-2F));
  p = fma(p, r, splat(1.6666665459e-1F));
  p = fma(p, r, splat(5.0000001201e-1F));
  return fma(p * r, r, r);
}

/// x = n log(2) + r, |r| <= log(2) / 2; returns exp(r) - 1 and sets n.
FUSED_INLINE Vector exp_reduced_minus_one(Vector x, IntVector& n) {
  const Vector whole = round_nearest(x * 1.44269504F);
  n = to_int(whole);
  Vector r = fma(whole, splat(-0.693359375F), x);
  r = fma(whole, splat(2.12194440e-4F), r);
  return expm1_near_zero(r);
}

FUSED_INLINE Vector exponential(Vector x) {
  x = min(splat(89.0F), max(splat(-104.0F), x));
  IntVector n;
  const Vector p = exp_reduced_minus_one(x, n);
  return scale_by_power(p + 1.0F, n);
}

/// 2^(high x + low x). Rounded to float32, an exponent of 100 is off by 4e-6; but of halves of x with 12 bits
/// each, the products with `high`, which has 12 bits, too, are exact.
FUSED_INLINE Vector power_of_two(Vector x, Vector high, Vector low) {
  x = min(splat(1e30F), max(splat(-1e30F), x));
  const Vector upper = from_bits(bits(x) & ~0xFFF);
  const Vector lower = x - upper;
  const Vector whole = round_nearest(min(splat(130.0F), max(splat(-151.0F), x * high)));
  const Vector rest = upper * high - whole + lower * high + x * low;
  // Beyond one where `whole` met its bounds.
  const Vector p = expm1_near_zero(0.693147181F * min(splat(1.0F), max(splat(-1.0F), rest)));
  return scale_by_power(p + 1.0F, to_int(whole));
}

/// exp(x) - 1 for x <= 0.
FUSED_INLINE Vector expm1_negative(Vector x) {
  IntVector n;
  const Vector p = exp_reduced_minus_one(max(splat(-30.0F), x), n);
  const Vector power = from_bits((n + 127) << 23);
  return fma(power, p, power - 1.0F);
}

FUSED_INLINE Vector logarithm(Vector x) {
  const IntVector subnormal = x < 1.17549435e-38F;
  const Vector scaled = select(subnormal, x * 8388608.0F, x);
  // m in [sqrt(1/2), sqrt(2)), x = m 2^e
  const IntVector shifted = subtract_wrapping(bits(scaled), 0x3F3504F3);
  const IntVector exponent = shifted >> 23;
  const Vector m = from_bits((shifted & 0x7FFFFF) + 0x3F3504F3);
  const Vector e = to_float(exponent) - select(subnormal, splat(23.0F), splat(0.0F));
  const Vector f = m - 1.0F;
  Vector p = splat(7.0376836292e-2F);
  p = fma(p, f, splat(-1.1514610310e-1F));
  p = fma(p, f, splat(1.1676998740e-1F));
  p = fma(p, f, splat(-1.2420140846e-1F));
  p = fma(p, f, splat(1.4249322787e-1F));
  p = fma(p, f, splat(-1.6668057665e-1F));
  p = fma(p, f, splat(2.0000714765e-1F));
  p = fma(p, f, splat(-2.4999993993e-1F));
  p = fma(p, f, splat(3.3333331174e-1F));
  const Vector square = f * f;
  Vector result = p * f * square;
  result = fma(e, splat(-2.12194440e-4F), result);
  result = fma(square, splat(-0.5F), result);
  result = fma(e, splat(0.693359375F), result + f);
  result = select(x > 3.40282347e38F, x, result);
  result = select(x == 0.0F, splat(-__builtin_inff()), result);
  return select(x >= 0.0F, result, splat(__builtin_nanf("")));
}

FUSED_INLINE Vector tanh_of(Vector x) {
  const Vector magnitude = absolute(x);
  const Vector z = x * x;
  Vector p = splat(-5.70498872745e-3F);
  p = fma(p, z, splat(2.06390887954e-2F));
  p = fma(p, z, splat(-5.37397155531e-2F));
  p = fma(p, z, splat(1.33314422036e-1F));
  p = fma(p, z, splat(-3.33332819422e-1F));
  const Vector small = fma(p * z, x, x);
  const Vector e = exponential(2.0F * min(splat(10.0F), magnitude));
  const Vector large = copy_sign(1.0F - 2.0F / (e + 1.0F), x);
  return select(magnitude < 0.625F, small, select(x == x, large, x));
}

FUSED_INLINE Vector sigmoid_of(Vector x) {
  const Vector e = exponential(-absolute(x));
  const Vector d = 1.0F / (1.0F + e);
  return select(x < 0.0F, e * d, d);
}

/// erfc(z) for z >= 0, given a and b with a b = z^2: the one product whose rounding matters.
FUSED_INLINE Vector erfc_positive(Vector z, Vector a, Vector b) {
  const Vector t = 1.0F / fma(splat(0.5F), z, splat(1.0F));
  Vector p = splat(0.1522794841676185F);
  p = fma(p, t, splat(-0.7204177131638768F));
  p = fma(p, t, splat(1.2487089911375462F));
  p = fma(p, t, splat(-0.8168191340076182F));
  p = fma(p, t, splat(0.01766406321703931F));
  p = fma(p, t, splat(-0.049680270130322696F));
  p = fma(p, t, splat(0.051508147795858786F));
  p = fma(p, t, splat(0.38320254761405004F));
  p = fma(p, t, splat(0.9990203459453028F));
  p = fma(p, t, splat(-1.2654664097056383F));
  return t * exponential(fma(-a, b, p));
}

FUSED_INLINE Vector erf_of(Vector x) {
  const Vector magnitude = absolute(x);
  // Maclaurin series, 2/sqrt(pi) sum of (-1)^n x^(2n+1) / (n! (2n+1)): below 1/2 its tail is under 2^-30.
  const Vector z = x * x;
  Vector p = splat(-8.5483270234508525e-4F);
  p = fma(p, z, splat(5.2239776254421879e-3F));
  p = fma(p, z, splat(-2.6866170645131251e-2F));
  p = fma(p, z, splat(1.1283791670955126e-1F));
  p = fma(p, z, splat(-3.7612638903183752e-1F));
  p = fma(p, z, splat(1.1283791670955126F));
  const Vector large = copy_sign(1.0F - erfc_positive(magnitude, magnitude, magnitude), x);
  return select(magnitude < 0.5F, p * x, select(x == x, large, x));
}

FUSED_INLINE Vector gelu_of(Vector x) {
  const Vector magnitude = absolute(x);
  const Vector tail = 0.5F * erfc_positive(magnitude * 0.70710678F, 0.5F * x, x);
  // Beyond 14.4 the tail is below the smallest float32, and x * 0 must not become infinity * 0.
  const Vector negative = select(x < -14.5F, splat(0.0F), x * tail);
  return select(x < 0.0F, negative, x * (1.0F - tail));
}

FUSED_INLINE Vector gelu_tanh_of(Vector x) {
  const Vector u = 1.5957691216F * fma(0.044715F * x * x, x, x);  // 2 sqrt(2/pi) (x + 0.044715 x^3)
  return select(x < -20.0F, splat(0.0F), x * sigmoid_of(u));
}

FUSED_INLINE Vector silu_of(Vector x) { return select(x < -120.0F, splat(0.0F), x * sigmoid_of(x)); }

/// log(1 + exp(x))
FUSED_INLINE Vector softplus_of(Vector x) {
  const Vector e = exponential(-absolute(x));
  const Vector u = 1.0F + e;
  const Vector log1p = logarithm(u) + (e - (u - 1.0F)) / u;  // the second term restores what u rounded off
  return max(splat(0.0F), x) + log1p;
}

/// x / scale to the last bit, given `inverse` = 1 / scale (P. Markstein, "IA-64 and Elementary Functions",
/// 2000); beyond 1024 anything beyond it. Lets a NaN through.
FUSED_INLINE Vector divide(Vector x, Vector scale, Vector inverse) {
  if constexpr (kLanes == 4) return x / scale;  // where multiply-adds may round twice, or division is as fast
  const Vector near = min(splat(1024.0F), max(splat(-1024.0F), x * inverse));
  return fma(fma(-near, scale, x), inverse, near);
}

/// out[i] = function(in[i]) for `vectors` vectors; `out` may be `in`.
void apply_function(FunctionCall call, const float* in, float* out, long vectors) {
  const Vector a = splat(call.a);
  const Vector b = splat(call.b);
  const Vector zero = splat(0.0F);
  const auto map = [=](auto f) FUSED_LAMBDA {
    for (long i = 0; i < vectors; ++i) store(out + i * kLanes, f(load(in + i * kLanes)));
  };
  switch (call.function) {
    case Function::identity: map([](Vector x) { return x; }); break;
    case Function::relu: map([=](Vector x) { return max(zero, x); }); break;
    case Function::leaky_relu: map([=](Vector x) { return select(x < 0.0F, a * x, x); }); break;
    case Function::elu:
      map([=](Vector x) { return select(x < 0.0F, a * expm1_negative(min(zero, x)), b * x); });
      break;
    case Function::gelu: map([](Vector x) { return gelu_of(x); }); break;
    case Function::gelu_tanh: map([](Vector x) { return gelu_tanh_of(x); }); break;
    case Function::silu: map([](Vector x) { return silu_of(x); }); break;
    case Function::tanh: map([](Vector x) { return tanh_of(x); }); break;
    case Function::sigmoid: map([](Vector x) { return sigmoid_of(x); }); break;
    case Function::hard_sigmoid:
      map([=](Vector x) { return min(splat(1.0F), max(zero, fma(a, x, b))); });
      break;
    case Function::hard_swish:
      map([=](Vector x) { return x * min(splat(1.0F), max(zero, fma(x, splat(1.0F / 6), splat(0.5F)))); });
      break;
    case Function::softplus: map([](Vector x) { return softplus_of(x); }); break;
    case Function::softsign: map([](Vector x) { return x / (1.0F + absolute(x)); }); break;
    case Function::clip: map([=](Vector x) { return min(b, max(a, x)); }); break;
    case Function::abs: map([](Vector x) { return absolute(x); }); break;
    case Function::sign:
      map([=](Vector x) { return select(x != x, x, select(x == 0.0F, x, copy_sign(splat(1.0F), x))); });
      break;
    case Function::sqrt: map([](Vector x) { return square_root(x); }); break;
    case Function::log: map([](Vector x) { return logarithm(x); }); break;
    case Function::exp: map([](Vector x) { return exponential(x); }); break;
    case Function::power: map([=](Vector x) { return power_of_two(x, a, b); }); break;
    case Function::square: map([](Vector x) { return x * x; }); break;
    case Function::reciprocal: map([](Vector x) { return 1.0F / x; }); break;
    case Function::erf: map([](Vector x) { return erf_of(x); }); break;
    case Function::quantize: {
      const Vector inverse = 1.0F / a;
      const Vector lowest = -128.0F - b;
      const Vector highest = 127.0F - b;
      map([=](Vector x) { return round_nearest(min(highest, max(lowest, divide(x, a, inverse)))); });
      break;
    }
  }
}
