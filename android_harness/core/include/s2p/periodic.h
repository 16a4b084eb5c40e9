#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace s2p {

/// Calls a function at once, then after every interval on a thread of its own, and a last time on destruction.
class Periodic {
 public:
  Periodic(std::chrono::milliseconds interval, std::function<void()> function)
      : interval_(interval), function_(std::move(function)) {
    function_();
    thread_ = std::thread([this] { loop(); });
  }

  ~Periodic() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopped_ = true;
    }
    wake_.notify_all();
    thread_.join();
    function_();
  }

  Periodic(const Periodic&) = delete;
  Periodic& operator=(const Periodic&) = delete;

 private:
  void loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!wake_.wait_for(lock, interval_, [this] { return stopped_; })) function_();
  }

  std::chrono::milliseconds interval_;
  std::function<void()> function_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace s2p
