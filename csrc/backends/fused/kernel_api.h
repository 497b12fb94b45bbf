#pragma once

// What the kernels read. Plain data and no standard library code: this file is also compiled with
// instruction-set flags, and an inline function compiled that way could be the copy the linker keeps.

namespace datasentinel::fused {

enum class Function : int {
  identity,
  relu,
  leaky_relu,  ///< x < 0 ? a x : x
  elu,         ///< x < 0 ? a (exp(x) - 1) : b x
  gelu,        ///< x Phi(x)
  gelu_tanh,   ///< its tanh approximation
  silu,        ///< x sigmoid(x)
  tanh,
  sigmoid,
  hard_sigmoid,  ///< clip(a x + b, 0, 1)
  hard_swish,    ///< x clip(x / 6 + 1/2, 0, 1)
  softplus,
  softsign,
  clip,  ///< min(max(x, a), b)
  abs,
  sign,
  sqrt,
  log,
  exp,
  power,  ///< 2^(a x + b x), where a has 12 bits
  square,
  reciprocal,
  erf,
  quantize,  ///< min(max(round(x / a), -128 - b), 127 - b), halves to even: a whole number beside b of an
             ///< int8
};

struct FunctionCall {
  Function function = Function::identity;
  float a = 0;
  float b = 0;
};

enum class Op : int {
  dense,  ///< out = function(a W + bias)
  pack,   ///< out = a in words, as WordKernels multiply them; `b` of the function is that of the quantisation
  apply,  ///< out = function(a)
  affine,      ///< out = (a - center) scale + offset
  difference,  ///< out = (a - center) scale + offset - b scale_b
  add,         ///< out = a + b, and so on; an operand of width 1 is repeated
  subtract,
  multiply,
  divide,
  minimum,
  maximum,
  copy,            ///< out = a
  gather,          ///< out[j] = a[indices[j]], or 0 where that is negative
  sum,             ///< out = factor * sum of weights[j] a[j]
  sum_squares,     ///< out = factor * sum of weights[j] d[j]^2, d as in `affine`
  sum_difference,  ///< out = factor * sum of weights[j] d[j]^2, d as in `difference`
  min_columns,     ///< out = min of a[j], which as in `affine` may be centred, scaled and shifted first
  max_columns,
  smallest,   ///< out = the `out.width` smallest of the same, ascending
  largest,    ///< out = the `out.width` largest, descending
  trees,      ///< out = the sum of the trees' leaves that a comes to
  distances,  ///< out[n] = function(factor * sum over k of (a[k] - weights[k, n])^2), weights as a layer's
};

/// Where a value lies in the frame (see ProgramView).
struct Columns {
  int offset = 0;
  int width = 0;
};

/// Decision trees (see trees.h), whose nodes lie in one array after the other: each is a word of 32 bits, a
/// threshold and, where it is a leaf, a value. A word holds, from the highest bit on, whether the node
/// negates, its feature, and how many nodes further its first child is: 0 in a leaf, whose threshold is NaN.
struct Trees {
  const float* words = nullptr;
  const float* thresholds = nullptr;
  const float* leaves = nullptr;
  const int* roots = nullptr;   ///< By tree,
  const int* depths = nullptr;  ///< in ascending order.
  int count = 0;                ///< A multiple of the lanes; those that fill up add 0.
};

inline constexpr int kTreeFeatureBits = 12;
inline constexpr int kTreeChildBits = 19;

struct WordKernels;

/// Per-column constants may be null: 0 for center and offset, 1 for scale, scale_b and weights. The others
/// are padded with zeros to a multiple of 16 columns.
struct Step {
  Op op = Op::copy;
  Columns a, b, out;
  FunctionCall function;
  /// dense, distances: so many steps behind it, `smallest` or `largest`, are the only readers. Rows in lanes
  /// are then computed in parts, as distances always are.
  int takers = 0;
  int windows = 1;  ///< dense: so many times, for `a` moved on by `step` columns and `out` by its width.
  int step = 0;
  int chains = 1;                         ///< dense: 1 or 2 sums of every other input, to be added.
  const float* lane_weights = nullptr;    ///< Packed for rows in lanes: [k block][column panel][k][column],
                                          ///< or in parts [group][k][column].
  const float* column_weights = nullptr;  ///< Packed for columns in lanes: [pair of vectors][k][column].
  const float* bias = nullptr;
  const float* centres = nullptr;  ///< dense of distances (see ExpandedDistances), whose gains are `scale`:
                                   ///< [panel of kCentreColumns][k][column].
  float largest_gain = 0;          ///< Not 0 where the first taker keeps the smallest distances unscaled,
                                   ///< from which is judged whether any are near.
  const WordKernels* words = nullptr;  ///< pack, and dense of packed inputs: what multiplies them.
  const int* first_sums =
      nullptr;  ///< dense in eight bits: the sums begin with these, and are worth `scale`.
  const float* center = nullptr;
  const float* scale = nullptr;
  const float* offset = nullptr;
  const float* scale_b = nullptr;
  const float* weights = nullptr;
  const int* indices = nullptr;
  const Trees* trees = nullptr;
  float factor = 1;
};

/// A chain of steps over one block of rows. All values of a block live in one *frame*. It is laid out in one
/// of two ways: *rows in lanes* stores column after column, each with the block's rows side by side, so that
/// a vector holds one column of many rows; *columns in lanes* stores row after row, `frame_columns` apart.
struct ProgramView {
  const Step* steps = nullptr;
  int score_steps = 0;   ///< The first steps compute the score,
  int output_steps = 0;  ///< these the output, too,
  int all_steps = 0;     ///< and all of them the contributions.
  int frame_columns = 0;
  Columns input, score, output, contributions;
  Columns state, state_next;           ///< Of width 0 without memory.
  const WordKernels* words = nullptr;  ///< Of the layers in words, if there are any.
};

/// The rows of a block and where the answers go. All but `input` may be null; without `state` every row is
/// the first of its stream.
struct Block {
  const float* input = nullptr;
  const float* state = nullptr;
  int rows = 0;
  float* scores = nullptr;
  float* output = nullptr;
  float* contributions = nullptr;
  float* state_next = nullptr;
};

/// What layers are multiplied in.
enum class Arithmetic : int { float32, bf16, int8 };

/// Layers in words of 32 bits, which hold neighbouring columns, the first one in the lowest bits: two in
/// bf16, whose sums are float32, or four in eight bits, whose sums are int32. Those are results of
/// Function::quantize, packed as x + b + 128 without a sign, and weights with one. Columns and words are
/// padded to multiples of `kWordTile`, with zeros as weights. Both layouts of a frame (see ProgramView) add
/// up in one order. Column tiles are taken in groups of `kPanelTiles` or `kFewTiles`: `lane_weights` are
/// packed [group][word tile][column tile][column][word], `column_weights` [group][word tile][column
/// tile][word][column]. A frame has room for whole tiles of columns.
struct WordKernels {
  const char* precision;
  const char* instructions;
  int most_few_rows;  ///< Rows that the columns-in-lanes layout may have.
  /// Around the steps of a block of so many rows; of whole panels with 0.
  void (*begin)(int few_rows);
  void (*end)();
  // Columns in lanes: `rows` rows, `stride` apart.
  void (*pack_few)(const Step& step, const float* in, int rows, long stride, float* out);
  void (*multiply_few)(const Step& step, const float* in, int rows, long stride, float* out);
  // Rows in lanes: a panel of two vectors of rows.
  void (*pack_panel)(const Step& step, const float* in, float* out);
  void (*multiply_panel)(const Step& step, const float* in, float* out);
};

inline constexpr int kWordTile = 16;
inline constexpr int kPanelTiles = 2;
inline constexpr int kFewTiles = 4;

/// Columns beside each other in packed centres.
inline constexpr int kCentreColumns = 16;
/// Of gain |z|^2: what float32 rounds off |z|^2 is some ten-thousandth of a larger square.
inline constexpr float kNearShare = 1.0F / 512;
/// Columns that the takers of a layer of distances may keep together where the first one is looked at.
inline constexpr int kMostKept = 8;

/// How the packed weights must be cut for one instruction set.
struct Geometry {
  int lanes;          ///< float32 lanes of a vector
  int panel_columns;  ///< rows in lanes: most chains of a register tile's columns (two vectors of rows high)
  int k_block;        ///< rows in lanes: most inputs of a layer before partial sums go to memory
  int part_group;     ///< rows in lanes, in parts: columns of a register tile
  int tile_rows;      ///< columns in lanes: most rows of a register tile
};

/// One instruction set's code. A frame must hold
/// `frame_columns` for each row; run_block rounds the rows up to panels of two vectors.
struct Kernels {
  const char* isa;
  Geometry geometry;
  void (*run_few)(const ProgramView& program, const Block& block, float* frame);
  void (*run_block)(const ProgramView& program, const Block& block, float* frame);
  /// out[i] = function(in[i]) for a whole number of vectors; for tests.
  void (*apply)(FunctionCall function, const float* in, float* out, long count);
};

}  // namespace datasentinel::fused
