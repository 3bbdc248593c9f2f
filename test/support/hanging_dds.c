/* Preloaded, so that DDS never returns from PLACE, as in eProsima/Fast-DDS#6513.

   PLACE is a function that rcl calls to leave DDS, which it does with Python's lock held. */
#include <pthread.h>
#include <stdio.h>

#define TEXT(name) #name
#define TEXT_OF(macro) TEXT(macro)

int PLACE(void) {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  fprintf(stderr, "hangs in " TEXT_OF(PLACE) "\n");
  pthread_mutex_lock(&mutex);
  return pthread_mutex_lock(&mutex); /* which no signal ends */
}
