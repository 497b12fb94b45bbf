// Packing quantised values in eight bits without a sign, four a word. Included inside the anonymous namespace
// of words_<instructions>.cpp.

inline __m512i whole_numbers(__m512 values, float above_zero) {
  return _mm512_cvtps_epi32(_mm512_add_ps(values, _mm512_set1_ps(above_zero)));
}

/// How far a quantised value's lowest number is below zero.
inline float above_zero(const Step& step) { return step.function.b + 128.0F; }

void pack_panel(const Step& step, const float* in, float* out) {
  constexpr long kPanelRows = 32;
  const float above = above_zero(step);
  const long columns = step.a.width;
  for (long word = 0; word < step.out.width; ++word) {
    for (long row = 0; row < kPanelRows; row += 16) {
      const float* column = in + 4 * word * kPanelRows + row;
      __m512i packed = _mm512_setzero_si512();
      for (unsigned i = 0; i < 4 && 4 * word + i < columns; ++i) {
        // Of NaN, only the lowest byte is taken, as below.
        const __m512i number = _mm512_and_si512(
            whole_numbers(_mm512_loadu_ps(column + i * kPanelRows), above), _mm512_set1_epi32(255));
        packed =
            _mm512_or_si512(packed, _mm512_sll_epi32(number, _mm_cvtsi32_si128(static_cast<int>(8 * i))));
      }
      _mm512_storeu_si512(out + word * kPanelRows + row, packed);
    }
  }
}

void pack_few(const Step& step, const float* in, int rows, long stride, float* out) {
  const float above = above_zero(step);
  const long columns = step.a.width;
  for (long r = 0; r < rows; ++r) {
    const float* row = in + r * stride;
    for (long word = 0; word < step.out.width; word += 4) {
      const long left = columns - 4 * word;
      const auto mask = static_cast<__mmask16>(left >= 16 ? 0xFFFF : left <= 0 ? 0 : (1 << left) - 1);
      const __m512i numbers = whole_numbers(_mm512_maskz_loadu_ps(mask, row + 4 * word), above);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + r * stride + word), _mm512_cvtepi32_epi8(numbers));
    }
  }
}
