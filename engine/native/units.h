// The CPU's matrix units (AMX): 16 rows times 16 outputs at once. All registers always hold 16 rows,
// so a row's sums have one order whoever they are computed with.
#pragma once
#include <sys/syscall.h>
#include <unistd.h>

#include "rows.h"

namespace voicereel {

constexpr int kUnitRows = 16, kUnitBlocks = 2;  // rows of a register, registers of rows at once
constexpr int kUnitBytes = 64;                  // of a row of a register

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
// Linux lets a process have them if it asks.
inline bool has_units() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

// Eight registers of 16 rows of 64 bytes; constant, since gcc does not see what reads it.
struct alignas(64) UnitShape {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
inline constexpr UnitShape kUnitShape;

inline void begin_units() { _tile_loadconfig(&kUnitShape); }
inline void end_units() { _tile_release(); }

// One register of inputs (4) or two (4, 5), times both halves of a panel (6, 7), added to 0 to 3.
template <int blocks>
inline void multiply(const uint8_t* x, int64_t stride) {
  _tile_loadd(4, x, kUnitBytes);
  _tile_dpbusd(0, 4, 6);
  _tile_dpbusd(1, 4, 7);
  if constexpr (blocks == 2) {
    _tile_loadd(5, x + stride, kUnitBytes);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
}
template <int blocks>
inline void multiply(const Bfloat16* x, int64_t stride) {
  _tile_loadd(4, x, kUnitBytes);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  if constexpr (blocks == 2) {
    _tile_loadd(5, x + stride, kUnitBytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// Blocks of 16 rows times a panel. x: for each 64 bytes of depth (16 rows, 64 bytes), as often as
// `parts` says, whose products are added up; `stride` numbers on, the next block. The panel (depth
// / dot, kColumns, dot), dot numbers being 4 bytes. -> (16 * blocks, kColumns).
template <int parts, int blocks, class Input, class Weight, class Sum>
inline void unit_tile(const Input* x, int64_t stride, const Weight* panel, int64_t depth, Ahead ahead,
                      Sum* sums) {
  constexpr int step = kUnitBytes / sizeof(Input), row = kColumns * 4;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (blocks == 2) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < depth; k += step, panel += step * kColumns) {
    ahead.fetch(panel + depth * kColumns, step * kColumns);
    _tile_loadd(6, panel, row);
    _tile_loadd(7, (const char*)panel + row / 2, row);
#pragma GCC unroll 2
    for (int part = 0; part < parts; part++, x += kUnitRows * step) multiply<blocks>(x, stride);
  }
  constexpr int half = kColumns / 2;
  _tile_stored(0, sums, row);
  _tile_stored(1, sums + half, row);
  if constexpr (blocks == 2) {
    sums += kUnitRows * kColumns;
    _tile_stored(2, sums, row);
    _tile_stored(3, sums + half, row);
  }
}
#else
inline bool has_units() { return false; }
inline void begin_units() {}
inline void end_units() {}
template <int parts, int blocks, class Input, class Weight, class Sum>
inline void unit_tile(const Input*, int64_t, const Weight*, int64_t, Ahead, Sum*) {}
#endif

}  // namespace voicereel
