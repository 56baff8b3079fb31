//! Health checks, sweeps and shutdown.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use zaqar_core::storage::{Error, Swept, Upkeep};
use zaqar_core::{Kind, Timestamp};

use super::{Fault, Memory};

#[async_trait]
impl Upkeep for Memory {
    async fn ping(&self) -> Result<(), Error> {
        self.state().map(drop)
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        assert!(!self.has(Fault::SweepPanics), "a planted panic");
        let mut state = self.state()?;
        let (mut done, mut expired) = (0, 0);
        for (key, head) in &mut state.heads {
            let now = head.effective_time(now);
            let (rows, messages) = head.sweep(now, budget - done);
            done += rows;
            expired += if key.kind == Kind::Internal { 0 } else { messages };
            if done == budget {
                break;
            }
        }
        done += self.sweep_leases(&mut state, now, budget - done);
        let more = done == budget || self.has(Fault::SweepNeverEnds);
        Ok(Swept { done, more, expired })
    }

    async fn shut_down(&self) -> Result<(), Error> {
        let wakes = self.state();
        if wakes.is_err() && self.has(Fault::SecondShutDownFails) {
            return Err(Error::Closed);
        }
        self.is_shut_down.store(!self.has(Fault::ServesAfterShutDown), Ordering::Release);
        if let Ok(mut state) = wakes {
            state.wake_listeners();
        }
        Ok(())
    }
}
