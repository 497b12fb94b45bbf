// Layers in words on the tiles of AMX. One product of tiles takes 16 words of 16 rows by those of 16 columns.
// Included inside the anonymous namespace of words_amx_<type>.cpp, which defines ADD_FEW(sums, inputs,
// weights) and ADD_PANEL(sums, weights, inputs) as instructions, which name their tiles.

constexpr int kRows = 16;          // of a tile, and of a vector of rows
constexpr int kPanel = 2 * kRows;  // rows
constexpr long kWordBytes = 4;
constexpr long kTileBytes = kWordTile * kWordBytes;  // of one row of a tile
constexpr long kTileWords = kWordTile * kWordTile;

/// What LDTILECFG reads.
struct alignas(64) TileShapes {
  unsigned char palette = 1;
  unsigned char start_row = 0;
  unsigned char reserved[14] = {};
  unsigned short row_bytes[16] = {};
  unsigned char rows[16] = {};
};

/// Tiles 0 to 3 are sums and 4 and 5 first factors, which have `few_rows` rows or 16; 6 and 7 are second
/// factors.
void begin(int few_rows) {
  const auto rows = static_cast<unsigned char>(few_rows == 0 ? kRows : few_rows);
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) {
    shapes.row_bytes[tile] = kTileBytes;
    shapes.rows[tile] = tile < 6 ? rows : kRows;
  }
  // GCC 12 takes the instruction to read eight bytes only.
  asm volatile("" : : "r"(&shapes) : "memory");
  _tile_loadconfig(&shapes);
}

void end() { _tile_release(); }

/// A group of `kTiles` tiles of columns, of a few rows.
template <int kTiles>
void few_tiles(const float* in, long stride, const float* weights, long word_tiles, float* out) {
  _tile_zero(0);
  if constexpr (kTiles > 1) _tile_zero(1);
  if constexpr (kTiles > 2) _tile_zero(2);
  if constexpr (kTiles > 3) _tile_zero(3);
  for (long k = 0; k < word_tiles; ++k) {
    _tile_loadd(4, in + k * kWordTile, stride * kWordBytes);
    _tile_loadd(6, weights, kTileBytes);
    ADD_FEW(0, 4, 6);
    if constexpr (kTiles > 1) {
      _tile_loadd(7, weights + kTileWords, kTileBytes);
      ADD_FEW(1, 4, 7);
    }
    if constexpr (kTiles > 2) {
      _tile_loadd(6, weights + 2 * kTileWords, kTileBytes);
      ADD_FEW(2, 4, 6);
    }
    if constexpr (kTiles > 3) {
      _tile_loadd(7, weights + 3 * kTileWords, kTileBytes);
      ADD_FEW(3, 4, 7);
    }
    weights += kTiles * kTileWords;
  }
  _tile_stored(0, out, stride * kWordBytes);
  if constexpr (kTiles > 1) _tile_stored(1, out + kWordTile, stride * kWordBytes);
  if constexpr (kTiles > 2) _tile_stored(2, out + 2 * kWordTile, stride * kWordBytes);
  if constexpr (kTiles > 3) _tile_stored(3, out + 3 * kWordTile, stride * kWordBytes);
}

/// A group of `kTiles` tiles of columns, of a panel. The weights are the first factors here: a tile's sums
/// are columns of rows.
template <int kTiles>
void panel_tiles(const float* in, const float* weights, long word_tiles, float* out) {
  constexpr long kStride = kPanel * kWordBytes;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kTiles == 2) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (long k = 0; k < word_tiles; ++k) {
    _tile_loadd(4, weights, kTileBytes);
    _tile_loadd(6, in, kStride);
    _tile_loadd(7, in + kRows, kStride);
    ADD_PANEL(0, 4, 6);
    ADD_PANEL(1, 4, 7);
    if constexpr (kTiles == 2) {
      _tile_loadd(5, weights + kTileWords, kTileBytes);
      ADD_PANEL(2, 5, 6);
      ADD_PANEL(3, 5, 7);
    }
    in += kWordTile * kPanel;
    weights += kTiles * kTileWords;
  }
  _tile_stored(0, out, kStride);
  _tile_stored(1, out + kRows, kStride);
  if constexpr (kTiles == 2) {
    _tile_stored(2, out + kWordTile * kPanel, kStride);
    _tile_stored(3, out + kWordTile * kPanel + kRows, kStride);
  }
}

long column_tiles(const Step& step) { return (step.out.width + kWordTile - 1) / kWordTile; }

void multiply_few(const Step& step, const float* in, int /*rows*/, long stride, float* out) {
  const long word_tiles = step.a.width / kWordTile;
  const float* weights = step.column_weights;
  const auto run = [&](auto multiply) { multiply(in, stride, weights, word_tiles, out); };
  for (long tiles = column_tiles(step); tiles > 0; tiles -= kFewTiles) {
    switch (tiles) {
      case 1: run(few_tiles<1>); break;
      case 2: run(few_tiles<2>); break;
      case 3: run(few_tiles<3>); break;
      default: run(few_tiles<kFewTiles>); break;
    }
    weights += kFewTiles * word_tiles * kTileWords;
    out += kFewTiles * kWordTile;
  }
}

void multiply_panel(const Step& step, const float* in, float* out) {
  const long word_tiles = step.a.width / kWordTile;
  const float* weights = step.lane_weights;
  for (long tiles = column_tiles(step); tiles > 0; tiles -= kPanelTiles) {
    const auto multiply = tiles == 1 ? panel_tiles<1> : panel_tiles<kPanelTiles>;
    multiply(in, weights, word_tiles, out);
    weights += kPanelTiles * word_tiles * kTileWords;
    out += kPanelTiles * kWordTile * kPanel;
  }
}
