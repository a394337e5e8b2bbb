// Snake, the activation of the codec.
#pragma once

namespace voicereel {

// x + sin(alpha x)^2 / alpha, by a polynomial in the square of the distance from the nearest zero.
inline float snake(float x, float turns, float inverse) {  // turns: alpha / pi
  const float turned = x * turns, off = turned - __builtin_rintf(turned), s = off * off;
  float y = -3.3565926551818848f;
  y = y * s + 13.05009937286377f;
  y = y * s - 30.101465225219727f;
  y = y * s + 42.727195739746094f;
  y = y * s - 32.469669342041016f;
  y = y * s + 9.869604110717773f;
  return x + inverse * (y * s);
}

}  // namespace voicereel
