// The CPU's matrix units (AMX): 16 rows times 16 outputs at once. All registers always hold 16 rows,
// so a row's sums have one order whatever rows they are computed with.
#pragma once
#include <sys/syscall.h>
#include <unistd.h>

#include "simd/rows.h"

namespace voicereel {

constexpr int kUnitRows = 16;   // of a tile register, which the architecture fixes
constexpr int kUnitBytes = 64;  // of a tile register's row, which it fixes too
// Registers of input rows at once: 2 x 2 of sums + 2 of inputs + 2 halves of a panel = 8 of 8.
constexpr int kUnitBlocks = 2;
constexpr int kPanelRow = kColumns * 4;  // bytes of a panel's row: 4 of depth for each output

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
// Linux gives a process its tile registers when it asks for them.
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

// Sums are in 0 to 3, inputs of one or two blocks of rows in 4 and 5, a panel's halves in 6 and 7.
template <int blocks>
inline void begin_sums() {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (blocks == 2) {
    _tile_zero(2);
    _tile_zero(3);
  }
}

// -> (16 * blocks, kColumns), of 4 bytes each.
template <int blocks, class Sum>
inline void end_sums(Sum* sums) {
  constexpr int half = kColumns / 2;
  _tile_stored(0, sums, kPanelRow);
  _tile_stored(1, sums + half, kPanelRow);
  if constexpr (blocks == 2) {
    sums += kUnitRows * kColumns;
    _tile_stored(2, sums, kPanelRow);
    _tile_stored(3, sums + half, kPanelRow);
  }
}

// 64 bytes of depth: (16, kColumns, 4 bytes).
template <class Weight>
inline void load_panel(const Weight* panel) {
  _tile_loadd(6, panel, kPanelRow);
  _tile_loadd(7, (const char*)panel + kPanelRow / 2, kPanelRow);
}

// Rows lie `stride` bytes apart, blocks of 16 rows `block` numbers.
template <int blocks>
inline void multiply_rows(const uint8_t* x, int64_t stride, int64_t block) {
  _tile_loadd(4, x, stride);
  _tile_dpbusd(0, 4, 6);
  _tile_dpbusd(1, 4, 7);
  if constexpr (blocks == 2) {
    _tile_loadd(5, x + block, stride);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
}
template <int blocks>
inline void multiply_rows(const Bfloat16* x, int64_t stride, int64_t block) {
  _tile_loadd(4, x, stride);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  if constexpr (blocks == 2) {
    _tile_loadd(5, x + block, stride);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// Blocks of 16 rows times a panel (depth / dot, kColumns, dot), dot numbers being 4 bytes. x: for each
// 64 bytes of depth (16 rows, 64 bytes), as often as `parts` says; weights in as many `planes`. What
// the parts and planes are products of is added up, but for the last of both, which is next to nothing.
template <int parts, int planes, int blocks, class Input, class Weight, class Sum>
inline void unit_tile(const Input* x, int64_t block, const Weight* panel, int64_t depth, Ahead ahead,
                      Sum* sums) {
  constexpr int step = kUnitBytes / sizeof(Input), part = kUnitRows * step, plane = step * kColumns;
  begin_sums<blocks>();
  for (int64_t k = 0; k < depth; k += step, panel += planes * plane, x += parts * part) {
    ahead.fetch(panel + planes * depth * kColumns, planes * plane);
    load_panel(panel);
    multiply_rows<blocks>(x, kUnitBytes, block);
    if constexpr (parts == 2) multiply_rows<blocks>(x + part, kUnitBytes, block);
    if constexpr (planes == 2) {
      load_panel(panel + plane);
      multiply_rows<blocks>(x, kUnitBytes, block);
    }
  }
  end_sums<blocks>(sums);
}
#else
inline bool has_units() { return false; }
inline void begin_units() {}
inline void end_units() {}
template <int parts, int planes, int blocks, class Input, class Weight, class Sum>
inline void unit_tile(const Input*, int64_t, const Weight*, int64_t, Ahead, Sum*) {}
#endif

}  // namespace voicereel
