/* Beside libfaketime, after it in LD_PRELOAD: waits of C11 end when they should.
 *
 * libfaketime 0.9 shifts what gettimeofday says and takes that back where somebody waits by pthread_cond_timedwait, but not where by
 * cnd_timedwait. librdkafka waits so: with its clock an hour ahead it waits an hour too long, and with it behind not at all.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <threads.h>
#include <time.h>

#define SECOND 1000000000LL

static long long nanoseconds(const struct timespec *at) { return at->tv_sec * SECOND + at->tv_nsec; }

int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until) {
    static int (*wait_until)(cnd_t *, mtx_t *, const struct timespec *);
    static int (*true_clock)(clockid_t, struct timespec *);
    struct timespec shown, now, end;
    long long left, at;

    if (!wait_until) {
        *(void **)&true_clock = dlsym(RTLD_NEXT, "clock_gettime");
        *(void **)&wait_until = dlsym(RTLD_NEXT, "cnd_timedwait");
    }
    clock_gettime(CLOCK_REALTIME, &shown);
    true_clock(CLOCK_REALTIME, &now);
    left = nanoseconds(until) - nanoseconds(&shown);
    at = nanoseconds(&now) + (left > 0 ? left : 0);
    end.tv_sec = at / SECOND;
    end.tv_nsec = at % SECOND;
    return wait_until(condition, mutex, &end);
}
