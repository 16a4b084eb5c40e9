#pragma once

// ExecuTorch's threadpool.h includes pthreadpool.h, which its pip package does not ship; these are all it needs of it.
struct pthreadpool;
typedef struct pthreadpool* pthreadpool_t;
extern "C" void pthreadpool_destroy(pthreadpool_t threadpool);
