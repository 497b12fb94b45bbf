// Layers in words on vectors. Included inside the anonymous namespace of words_<instructions>.cpp, which
// defines `Sums`, a vector of 16, `zero_sums()`, and `add_products(sums, words, words)`.

constexpr long kRows = 16;          // of a vector
constexpr long kPanel = 2 * kRows;  // rows
constexpr long kTileWords = kWordTile * kWordTile;

inline __m512i load_words(const float* p) { return _mm512_loadu_si512(p); }
inline __m512i repeat_word(const float* p) { return _mm512_castps_si512(_mm512_set1_ps(*p)); }
inline void store_sums(float* p, Sums sums) { __builtin_memcpy(p, &sums, sizeof(sums)); }

/// `kCount` rows by the columns of a group of `kTiles` tiles.
template <int kCount, int kTiles>
void few_tiles(const float* in, long stride, const float* weights, long words, float* out) {
  Sums sums[kCount][kTiles];
#pragma GCC unroll 16
  for (int i = 0; i < kCount * kTiles; ++i) sums[i / kTiles][i % kTiles] = zero_sums();
  for (long word = 0; word < words; ++word) {
    const float* tile = weights + word / kWordTile * kTiles * kTileWords + word % kWordTile * kWordTile;
    __m512i columns[kTiles];
#pragma GCC unroll 4
    for (int t = 0; t < kTiles; ++t) columns[t] = load_words(tile + t * kTileWords);
#pragma GCC unroll 4
    for (int r = 0; r < kCount; ++r) {
      const __m512i value = repeat_word(in + r * stride + word);
#pragma GCC unroll 4
      for (int t = 0; t < kTiles; ++t) sums[r][t] = add_products(sums[r][t], value, columns[t]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kCount * kTiles; ++i) {
    store_sums(out + i / kTiles * stride + i % kTiles * kWordTile, sums[i / kTiles][i % kTiles]);
  }
}

template <int kTiles>
void few_columns(const float* in, int rows, long stride, const float* weights, long words, float* out) {
  int row = 0;
  for (; row + 4 <= rows; row += 4) {
    few_tiles<4, kTiles>(in + row * stride, stride, weights, words, out + row * stride);
  }
  for (; row < rows; ++row) {
    few_tiles<1, kTiles>(in + row * stride, stride, weights, words, out + row * stride);
  }
}

void multiply_few(const Step& step, const float* in, int rows, long stride, float* out) {
  const long words = step.a.width;
  const float* weights = step.column_weights;
  const auto run = [&](auto multiply) { multiply(in, rows, stride, weights, words, out); };
  for (long columns = step.out.width; columns > 0; columns -= kFewTiles * kWordTile) {
    switch ((columns + kWordTile - 1) / kWordTile) {
      case 1: run(few_columns<1>); break;
      case 2: run(few_columns<2>); break;
      case 3: run(few_columns<3>); break;
      default: run(few_columns<kFewTiles>); break;
    }
    weights += kFewTiles * kWordTile * words;
    out += kFewTiles * kWordTile;
  }
}

/// Half a tile of columns of a panel, whose next word tiles are `next` further on.
void half_tile(const float* in, const float* weights, long next, long words, float* out) {
  constexpr int kColumns = kWordTile / 2;
  Sums sums[kColumns][2];
#pragma GCC unroll 16
  for (int i = 0; i < kColumns * 2; ++i) sums[i / 2][i % 2] = zero_sums();
  for (long word = 0; word < words; ++word) {
    const float* column = weights + word / kWordTile * next + word % kWordTile;
    const __m512i rows[2] = {load_words(in + word * kPanel), load_words(in + word * kPanel + kRows)};
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      const __m512i weight = repeat_word(column + c * kWordTile);
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) sums[c][v] = add_products(sums[c][v], rows[v], weight);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kColumns * 2; ++i) store_sums(out + i * kRows, sums[i / 2][i % 2]);
}

void multiply_panel(const Step& step, const float* in, float* out) {
  const long words = step.a.width;
  const long tiles = (step.out.width + kWordTile - 1) / kWordTile;
  for (long tile = 0; tile < tiles; ++tile) {
    const long group = tile / kPanelTiles * kPanelTiles;
    const long group_tiles = tiles - group < kPanelTiles ? tiles - group : kPanelTiles;
    const float* weights = step.lane_weights + group * kWordTile * words + (tile - group) * kTileWords;
    for (long half = 0; half < kWordTile; half += kWordTile / 2) {
      half_tile(in, weights + half * kWordTile, group_tiles * kTileWords, words,
                out + (tile * kWordTile + half) * kPanel);
    }
  }
}

void begin(int /*few_rows*/) {}
void end() {}
