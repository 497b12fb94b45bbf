// Packing numbers as bf16, two a word. Included inside the anonymous namespace of words_<instructions>.cpp.

inline __m512i to_words(__m512bh pairs) { return reinterpret_cast<__m512i>(pairs); }

/// A word for each row, with `low` in its low half.
inline __m512i pair_rows(__m512 low, __m512 high) {
  const __m512i side_by_side =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                       23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(side_by_side, to_words(_mm512_cvtne2ps_pbh(high, low)));
}

void pack_panel(const Step& step, const float* in, float* out) {
  constexpr long kPanelRows = 32;
  const long columns = step.a.width;
  for (long word = 0; word < step.out.width; ++word) {
    for (long row = 0; row < kPanelRows; row += 16) {
      const float* low = in + 2 * word * kPanelRows + row;
      const __m512 none = _mm512_setzero_ps();
      _mm512_storeu_si512(out + word * kPanelRows + row,
                          pair_rows(2 * word < columns ? _mm512_loadu_ps(low) : none,
                                    2 * word + 1 < columns ? _mm512_loadu_ps(low + kPanelRows) : none));
    }
  }
}

/// The 16 columns from `first` on, of which those beyond `columns` are zeros.
inline __m512 load_columns(const float* row, long first, long columns) {
  const long left = columns - first;
  if (left >= 16) return _mm512_loadu_ps(row + first);
  return left <= 0 ? _mm512_setzero_ps()
                   : _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << left) - 1U), row + first);
}

void pack_few(const Step& step, const float* in, int rows, long stride, float* out) {
  const long columns = step.a.width;
  for (long r = 0; r < rows; ++r) {
    const float* row = in + r * stride;
    for (long word = 0; word < step.out.width; word += 16) {
      const __m512 low = load_columns(row, 2 * word, columns);
      const __m512 high = load_columns(row, 2 * word + 16, columns);
      _mm512_storeu_si512(out + r * stride + word, to_words(_mm512_cvtne2ps_pbh(high, low)));
    }
  }
}
