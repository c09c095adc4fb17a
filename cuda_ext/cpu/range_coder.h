// The entropy coder of pictures: an adaptive binary range coder (Martin 1979; the carry is held back as in Schindler 1998)
// and the binarisation of integers on top of it. Integers only, so that every machine writes and reads the same bytes.
//
// splat/image/codec/reference_coder.py is its twin in Python, line for line; change both or neither.
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <vector>

namespace splat::range {

// Two running estimates of the probability that a bit is one, in units of 2^-24, and how often the bit was seen, up to
// kSlowLimit. Both start as the mean of what was seen (rate 1 / (n + 1.5)); the fast one stops slowing down early. Their
// mean follows drifting sources and loses little on steady ones.
struct BitModel {
  int32_t slow, fast, count;
};
constexpr int kProbabilityBits = 24;
constexpr int32_t kFastLimit = 20, kSlowLimit = 500;
constexpr int32_t kTrust = 20;  // a model seen this often weighs as much as the coarser ones
constexpr uint32_t kLeastProbability = 16;  // of 2^16: a bit costs at most 12 bits

constexpr auto kRates = [] {  // 2^16 / (n + 1.5)
  std::array<int64_t, kSlowLimit + 1> rates{};
  for (int64_t n = 0; n <= kSlowLimit; ++n) rates[n] = (int64_t{1} << 17) / (2 * n + 3);
  return rates;
}();

constexpr auto kWeights = [] {  // 2^16 n / (n + kTrust)
  std::array<int32_t, kSlowLimit + 1> weights{};
  for (int32_t n = 0; n <= kSlowLimit; ++n) weights[n] = (n << 16) / (n + kTrust);
  return weights;
}();

inline int32_t moved(int32_t estimate, bool bit, int32_t age) {
  const int64_t target = bit ? int64_t{1} << kProbabilityBits : 0;
  return static_cast<int32_t>(estimate + ((target - estimate) * kRates[age] >> 16));
}
inline void update(BitModel& m, bool bit) {
  m.slow = moved(m.slow, bit, m.count);
  m.fast = moved(m.fast, bit, std::min(m.count, kFastLimit));
  m.count = std::min(m.count + 1, kSlowLimit);
}
constexpr uint32_t kWhole = 0xffffffffu, kTop = 1u << 24;  // the interval at the start, and the least after a bit
constexpr int kRawBits = 8;                                // equiprobable bits coded at once

// Both coders offer the same three calls, so that a binarisation is written once: the encoder codes what it is given and
// returns it, the decoder ignores what it is given. State that lives over several calls is four int64.
class Encoder {
 public:
  static constexpr bool kDecodes = false;
  Encoder(const int64_t* state, std::vector<uint8_t>& bytes)
      : low_(state[0]), range_(static_cast<uint32_t>(state[1])), cache_(state[2]), pending_(state[3]), bytes_(bytes) {}
  void save(int64_t* state) const {
    state[0] = static_cast<int64_t>(low_), state[1] = range_, state[2] = cache_, state[3] = pending_;
  }
  bool ok() const { return true; }

  bool bit(uint32_t one, bool bit) {
    const uint32_t bound = static_cast<uint32_t>(uint64_t{range_} * one >> 16);
    if (!bit) low_ += bound;
    range_ = bit ? bound : range_ - bound;
    renormalise();
    return bit;
  }
  uint32_t raw(int width, uint32_t value) {
    range_ >>= width;
    low_ += uint64_t{range_} * value;
    renormalise();
    return value;
  }

 private:
  void renormalise() {
    while (range_ < kTop) {
      range_ <<= 8;
      shift();
    }
  }
  // The top byte of low leaves. A byte of 255 may still become 0 by a carry, and so may all that precede it: they are
  // counted until a byte comes that settles them. cache_ is the byte before them, -1 at the start.
  void shift() {
    if (low_ < 0xff000000u || low_ > 0xffffffffu) {
      const uint8_t carry = static_cast<uint8_t>(low_ >> 32);
      if (cache_ >= 0) bytes_.push_back(static_cast<uint8_t>(cache_ + carry));
      bytes_.insert(bytes_.end(), static_cast<size_t>(pending_), static_cast<uint8_t>(0xff + carry));
      pending_ = 0;
      cache_ = low_ >> 24 & 0xff;
    } else {
      ++pending_;
    }
    low_ = (low_ & 0xffffff) << 8;
  }
  uint64_t low_;
  uint32_t range_;
  int64_t cache_, pending_;
  std::vector<uint8_t>& bytes_;
};

class Decoder {
 public:
  static constexpr bool kDecodes = true;
  // At the end of a whole stream the decoder has asked for one byte fewer than this more than there are; for this many where
  // there are none.
  static constexpr int64_t kAhead = 4;
  Decoder(const int64_t* state, const uint8_t* data, int64_t size)
      : code_(static_cast<uint32_t>(state[0])), range_(static_cast<uint32_t>(state[1])), position_(state[2]),
        damaged_(state[3] != 0), data_(data), size_(size) {}
  void save(int64_t* state) const { state[0] = code_, state[1] = range_, state[2] = position_, state[3] = !ok(); }
  bool ok() const { return !damaged_ && position_ <= size_ + kAhead; }
  void damage() { damaged_ = true; }

  bool bit(uint32_t one, bool) {
    const uint32_t bound = static_cast<uint32_t>(uint64_t{range_} * one >> 16);
    const bool bit = code_ < bound;
    code_ -= bit ? 0 : bound;
    range_ = bit ? bound : range_ - bound;
    renormalise();
    return bit;
  }
  uint32_t raw(int width, uint32_t) {
    range_ >>= width;
    const uint32_t value = code_ / range_;
    if (value >> width) {  // no encoder leaves this rest of the interval
      damage();
      return 0;
    }
    code_ -= range_ * value;
    renormalise();
    return value;
  }

 private:
  void renormalise() {
    while (range_ < kTop) {
      range_ <<= 8;
      code_ = code_ << 8 | (position_ < size_ ? data_[position_] : 0);
      ++position_;
    }
  }
  uint32_t code_, range_;
  int64_t position_;
  bool damaged_;
  const uint8_t* data_;
  int64_t size_;
};

// The models of one symbol, coarsest first: of all symbols, of its context, of its context and the code before it. All of
// them learn from every symbol.
struct Chain {
  std::array<BitModel*, 3> rows;
  int length;
};

// Probability of a one, of 2^16. A finer model weighs n / (n + kTrust), what the coarser ones say the rest: a new context
// starts from what all have in common. (Linear interpolation, as Jelinek & Mercer 1980 smooth the contexts of words.)
inline uint32_t probability(const Chain& chain, int node) {
  int64_t mixed = 0;  // of 2^(kProbabilityBits + 1)
  for (int i = 0; i < chain.length; ++i) {
    const BitModel& m = chain.rows[i][node];
    const int64_t own = m.slow + m.fast;
    mixed = i == 0 ? own : mixed + ((own - mixed) * kWeights[m.count] >> 16);
  }
  const uint32_t one = static_cast<uint32_t>(mixed >> (kProbabilityBits + 1 - 16));
  return std::clamp(one, kLeastProbability, (1u << 16) - kLeastProbability);
}

template <class Coder>
bool code_bit(Coder& coder, const Chain& chain, int node, bool bit) {
  bit = coder.bit(probability(chain, node), bit);
  for (int i = 0; i < chain.length; ++i) update(chain.rows[i][node], bit);
  return bit;
}

// `width` equiprobable bits, the highest first.
template <class Coder>
uint32_t code_raw(Coder& coder, int width, uint32_t value) {
  uint32_t coded = 0;
  while (width > 0) {
    const int part = std::min(width, kRawBits);
    width -= part;
    coded = coded << part | coder.raw(part, value >> width & ((1u << part) - 1));
  }
  return coded;
}

// Nodes of the models of a magnitude: is it above 0, above 1; the length of its Elias gamma code; the code's two bits below
// the leading one, for each length.
constexpr int kUnary = 2, kMaxLength = 31, kTopBits = 2;
constexpr int kLengthNode = kUnary, kTopNode = kLengthNode + kMaxLength, kTopNodes = (1 << kTopBits) - 1;
constexpr int kMagnitudeNodes = kTopNode + kMaxLength * kTopNodes;
constexpr int kZeroNode = kMagnitudeNodes, kSignNode = kZeroNode + 1, kSignedNodes = kSignNode + 1;

// 0 .. 2^31 - 1: small ones bit by bit, others by the Elias gamma code (Elias 1975) of what is left, plus one. A decoded one may
// reach 2^32: the caller checks it.
template <class Coder>
uint64_t code_magnitude(Coder& coder, const Chain& chain, uint64_t value) {
  for (uint64_t i = 0; i < kUnary; ++i)
    if (!code_bit(coder, chain, static_cast<int>(i), value > i)) return i;
  const uint64_t rest = Coder::kDecodes ? 1 : value - kUnary + 1;
  const int wanted = std::bit_width(rest) - 1;
  int length = 0;
  while (length < kMaxLength && code_bit(coder, chain, kLengthNode + length, length < wanted)) ++length;
  uint64_t top = 1;
  int left = length;
  for (; left > 0 && length - left < kTopBits; --left) {
    const int node = kTopNode + (length - 1) * kTopNodes + static_cast<int>(top) - 1;
    top = top << 1 | code_bit(coder, chain, node, rest >> (left - 1) & 1);
  }
  const uint64_t low = rest & ((uint64_t{1} << left) - 1);
  return (top << left | code_raw(coder, left, static_cast<uint32_t>(low))) - 1 + kUnary;
}

// A bit tree of 0 .. levels - 1: the first bits by their models, the rest equiprobable; a bit that only zero leaves in
// range is not coded.
constexpr int kTreeBits = 6, kTreeNodes = (1 << kTreeBits) - 1;
template <class Coder>
uint32_t code_bounded(Coder& coder, const Chain& chain, uint32_t levels, uint32_t value) {
  uint64_t prefix = 0;
  uint32_t tree = 1;
  for (int left = std::bit_width(levels - 1) - 1, depth = 0; left >= 0; --left, ++depth) {
    const bool wanted = value >> left & 1;
    bool bit = false;
    if ((prefix << 1 | 1) << left < levels)
      bit = depth < kTreeBits ? code_bit(coder, chain, static_cast<int>(tree) - 1, wanted) : coder.raw(1, wanted) != 0;
    prefix = prefix << 1 | bit;
    tree = tree << 1 | bit;
  }
  return static_cast<uint32_t>(prefix);
}

enum class Kind : int64_t { kSigned = 0, kUnsigned = 1, kBounded = 2, kBits = 3 };
constexpr int model_nodes(Kind kind) {
  return kind == Kind::kSigned ? kSignedNodes : kind == Kind::kUnsigned ? kMagnitudeNodes : kTreeNodes;
}

// The symbols of one call. extents: levels of kBounded, widths of kBits. The models' rows: one for all symbols, one for each
// context where there are several, one for each context and code before it where memory > 1.
struct Stream {
  Kind kind;
  int64_t count;
  const int32_t *contexts, *extents;
  int64_t context_count, memory;
  BitModel* models;

  int64_t rows() const {
    return 1 + (context_count > 1 ? context_count : 0) + (memory > 1 ? context_count * memory : 0);
  }
  Chain chain(int64_t context, int64_t previous) const {
    const int nodes = model_nodes(kind);
    Chain c{{models}, 1};
    if (context_count > 1) c.rows[c.length++] = models + (1 + context) * nodes;
    if (memory > 1) {
      const int64_t first = rows() - context_count * memory;
      c.rows[c.length++] = models + (first + context * memory + std::min(previous, memory - 1)) * nodes;
    }
    return c;
  }
};

constexpr int64_t kMaxValue = 0x7fffffff;

// Codes the stream: an encoder reads `values`, a decoder writes them, until it finds damage.
template <class Coder, class Value>
void code_stream(Coder& coder, const Stream& stream, Value* values) {
  int64_t previous = 0;  // code of the value before: itself, or for signed ones 0, 1, -1, 2, -2, ... -> 0, 1, 2, 3, 4, ...
  for (int64_t i = 0; i < stream.count && coder.ok(); ++i) {
    int64_t value = Coder::kDecodes ? 0 : values[i];
    const uint32_t given = static_cast<uint32_t>(value);
    if (stream.kind == Kind::kBits) {
      value = code_raw(coder, stream.extents[i], given);
    } else {
      const Chain chain = stream.chain(stream.contexts[i], previous);
      if (stream.kind == Kind::kBounded) {
        value = code_bounded(coder, chain, static_cast<uint32_t>(stream.extents[i]), given);
      } else if (stream.kind == Kind::kUnsigned) {
        value = static_cast<int64_t>(code_magnitude(coder, chain, given));
      } else if (code_bit(coder, chain, kZeroNode, value != 0)) {
        const bool negative = code_bit(coder, chain, kSignNode, value < 0);
        const int64_t size = static_cast<int64_t>(
            code_magnitude(coder, chain, static_cast<uint64_t>((negative ? -value : value) - 1))) + 1;
        value = negative ? -size : size;
      }
      previous = stream.kind != Kind::kSigned ? value : value > 0 ? 2 * value - 1 : -2 * value;
    }
    if constexpr (Coder::kDecodes) {
      if (value > kMaxValue || value < -kMaxValue - 1) coder.damage();
      values[i] = coder.ok() ? static_cast<int32_t>(value) : 0;
    }
  }
}

}  // namespace splat::range
