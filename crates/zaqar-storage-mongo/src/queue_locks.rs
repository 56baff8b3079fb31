//! Gates: those of this process that change who holds a queue's messages wait for each other here,
//! as all but one of them would only find out at the database that they have to try again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Gate, OwnedMutexGuard};

/// A gate for each queue at which somebody is.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    gates: Mutex<HashMap<String, Arc<Gate<()>>>>,
}

/// The right to go on. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    gates: &'a Gates,
    name: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Gates {
    /// Waits for the others at a gate.
    pub(crate) async fn pass(&self, name: String) -> Pass<'_> {
        let gate = {
            let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(gates.entry(name.clone()).or_default())
        };
        // Before the wait: who gives up waiting clears up, too.
        let mut pass = Pass { gates: self, name, guard: None };
        pass.guard = Some(gate.lock_owned().await);
        pass
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut gates = self.gates.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if gates.get(&self.name).is_some_and(|gate| Arc::strong_count(gate) == 1) {
            gates.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gate_lets_one_through_and_is_forgotten_with_the_last() {
        let gates = Gates::default();
        let first = gates.pass("q".to_owned()).await;
        let other = gates.pass("r".to_owned()).await;
        let mut second = Box::pin(gates.pass("q".to_owned()));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        assert_eq!(gates.gates.lock().unwrap().len(), 1);
        let _first = gates.pass("q".to_owned()).await;
        let mut given_up = Box::pin(gates.pass("q".to_owned()));
        assert!(futures_util::poll!(&mut given_up).is_pending());
        drop(given_up);
        drop((other, _first));
        assert_eq!(gates.gates.lock().unwrap().len(), 0);
    }
}
