//! A deadline for one wait after another.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use async_std::task;

use super::Error;

/// Its timer is set anew when it goes off and not with each wait: to set one and take it back costs the runtime a turn of
/// its reactor, and a heartbeat has few of them.
pub struct Alarm {
    deadline: Duration,
    timer: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Alarm {
    pub fn new(deadline: Duration) -> Self {
        Self { deadline, timer: Box::pin(task::sleep(deadline)) }
    }

    /// A frozen database neither answers nor fails: only our own clock ends that wait.
    pub async fn within_deadline<T>(
        &mut self,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let end = Instant::now() + self.deadline;
        let mut answer = pin!(answer);
        poll_fn(|context| {
            if let Poll::Ready(done) = answer.as_mut().poll(context) {
                return Poll::Ready(done);
            }
            while self.timer.as_mut().poll(context).is_ready() {
                let left = end.saturating_duration_since(Instant::now());
                let over = left.is_zero();
                self.timer = Box::pin(task::sleep(if over { self.deadline } else { left }));
                if over {
                    return Poll::Ready(Err(Error::Deadline(self.deadline)));
                }
            }
            Poll::Pending
        })
        .await
    }
}
