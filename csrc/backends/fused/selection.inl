// Which of many values come first, lane by lane. Included inside the anonymous namespace of each
// kernels_<isa>.cpp.

/// The first so many of the values seen, in order, in every lane for itself.
template <int kWanted>
struct Shortlist {
  Vector held[kWanted];

  FUSED_INLINE void start(Vector worst) {
#pragma GCC unroll 8
    for (int i = 0; i < kWanted; ++i) held[i] = worst;
  }

  template <typename Before, typename After>
  FUSED_INLINE void insert(Vector candidate, Before before, After after) {
#pragma GCC unroll 8
    for (int i = 0; i < kWanted; ++i) {
      const Vector first = before(held[i], candidate);
      candidate = after(held[i], candidate);
      held[i] = first;
    }
  }

  /// Inserts what lane i ^ kBy has into lane i.
  template <int kBy, typename Before, typename After>
  FUSED_INLINE void insert_other_lanes(Before before, After after) {
    Vector others[kWanted];
#pragma GCC unroll 8
    for (int i = 0; i < kWanted; ++i) others[i] = swap_lanes<kBy>(held[i]);
#pragma GCC unroll 8
    for (int i = 0; i < kWanted; ++i) insert(others[i], before, after);
  }
};

// Selection costs as much as narrow distances do, so comparisons are spared: groups of values play a
// tournament of so many rounds, and only the winner goes through the whole list. One that loses is among the
// first k only with the one it lost to, so at most k/2 losers of a round are, and a list of these suffices.
// For k = 3 that is about 3 comparing instructions a value, where insertion takes 5, and networks of
// comparators need two comparators (V. E. Alekseev, "Certain algorithms for sorting with minimum memory",
// 1969).
constexpr int kRounds = kTileSums >= 20 ? 3 : 2;  // as many as there are registers for
constexpr int kPlayers = 1 << kRounds;

template <int kWanted>
struct Selection {
  static constexpr int kLength = kWanted;
  static constexpr int kLosers = kWanted / 2;
  Shortlist<kWanted> first;
  Shortlist<(kLosers > 0 ? kLosers : 1)> losers[kRounds];

  FUSED_INLINE void start(Vector worst) {
    first.start(worst);
#pragma GCC unroll 4
    for (int round = 0; round < kRounds; ++round) losers[round].start(worst);
  }

  template <int kRound = 0, typename Before, typename After>
  FUSED_INLINE void add_group(Vector (&players)[kPlayers], Before before, After after) {
    constexpr int kPairs = kPlayers >> (kRound + 1);
#pragma GCC unroll 8
    for (int pair = 0; pair < kPairs; ++pair) {
      const Vector winner = before(players[2 * pair], players[2 * pair + 1]);
      if constexpr (kLosers > 0) {
        losers[kRound].insert(after(players[2 * pair], players[2 * pair + 1]), before, after);
      }
      players[pair] = winner;
    }
    if constexpr (kRound + 1 < kRounds) {
      add_group<kRound + 1>(players, before, after);
    } else {
      first.insert(players[0], before, after);
    }
  }

  /// After the last group.
  template <typename Before, typename After>
  FUSED_INLINE void add_losers(Before before, After after) {
    if constexpr (kLosers > 0) {
#pragma GCC unroll 4
      for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 4
        for (int i = 0; i < kLosers; ++i) first.insert(losers[round].held[i], before, after);
      }
    }
  }
};

/// Calls `use` with a Selection that is long enough; false if there is none that fits into the registers.
template <typename Use>
FUSED_INLINE bool with_selection(int wanted, Use use) {
  if (wanted <= 3) {
    use(Selection<3>());
  } else if (wanted <= 8) {
    use(Selection<8>());
  } else {
    return false;
  }
  return true;
}
