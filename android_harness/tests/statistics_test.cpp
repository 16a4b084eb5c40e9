#include "s2p/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace s2p {
namespace {

// The nearest-rank example of the usual textbooks: of 15, 20, 35, 40, 50 the 30th percentile is 20, the 50th 35.
TEST(Summarize, UsesNearestRanks) {
  const auto five = summarize({50, 15, 40, 20, 35});
  EXPECT_EQ(five->p50, 35);
  EXPECT_EQ(five->p90, 50);
  EXPECT_EQ(five->count, 5u);
  std::vector<double> hundred(100);
  std::iota(hundred.begin(), hundred.end(), 1.0);
  const auto many = summarize(hundred);
  EXPECT_EQ(many->p50, 50);
  EXPECT_EQ(many->p90, 90);
  EXPECT_EQ(many->p99, 99);
}

TEST(Summarize, TrimsATenthAtEachEnd) {
  EXPECT_DOUBLE_EQ(summarize({1000, 2, 3, 4, 5, 6, 7, 8, 9, -500})->trimmed_mean, 5.5);
  EXPECT_DOUBLE_EQ(summarize({1, 2, 30})->trimmed_mean, 11);
}

TEST(Summarize, HasNothingToSayOfNoSamples) { EXPECT_FALSE(summarize({}).has_value()); }

TEST(Compare, TakesTheReferencesRangeAsPeak) {
  const Difference difference = compare_latents({-1.0f, 0.0f, 3.5f, 1.0f}, {-1.0f, 0.0f, 3.0f, 1.0f});
  EXPECT_DOUBLE_EQ(*difference.psnr_db, 10 * std::log10(16.0 / (0.25 / 4)));
  EXPECT_DOUBLE_EQ(difference.max_abs, 0.5);
}

TEST(Compare, HasNoRatioForIdenticalArrays) {
  const Difference same = compare_latents({1.0f, 2.0f}, {1.0f, 2.0f});
  EXPECT_FALSE(same.psnr_db.has_value());
  EXPECT_EQ(same.max_abs, 0.0);
}

TEST(Compare, KeepsANaN) {
  EXPECT_TRUE(std::isnan(compare_latents({NAN, 5.0f}, {1.0f, 2.0f}).max_abs));
}

TEST(Compare, MeasuresPicturesAgainst255) {
  const Difference difference = compare_pixels({10, 20, 30, 40}, {10, 20, 30, 30});
  EXPECT_DOUBLE_EQ(*difference.psnr_db, 10 * std::log10(255.0 * 255.0 / 25.0));
  EXPECT_EQ(difference.max_abs, 10);
}

}  // namespace
}  // namespace s2p
