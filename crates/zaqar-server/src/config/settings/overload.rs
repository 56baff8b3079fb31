//! `[limits]`: limits of all clients together.

use zaqar_core::MemoryBounds;

use crate::config::reader::Options;

/// The default budget is one part in this many of the available memory.
const DEFAULT_PART: u64 = 4;

/// The smallest budget: connections with small requests. With less than a connection takes, every
/// request would be rejected.
const LEAST_BUDGET: u64 = 1 << 20;

/// The smallest limit of one connection, if the budget allows it: some of the largest posts and
/// pages that the defaults allow.
const LEAST_CONNECTION_SHARE: u64 = 16 << 20;

/// Limits of all clients together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overload {
    /// `memory_budget` in bytes; 0 means a quarter of the machine's or container's memory.
    pub memory_budget: u64,
    /// `memory_per_connection`: percent of the budget.
    pub memory_per_connection: u64,
    /// `memory_per_project`: percent of the budget.
    pub memory_per_project: u64,
    /// `max_operations`: operations in progress at once, at most.
    pub max_operations: u64,
    /// `max_expensive_operations_per_project`: in progress at once; others wait.
    pub max_expensive_operations_per_project: u64,
}

impl Overload {
    pub(super) fn read(options: &mut Options<'_>) -> Self {
        let memory_budget = options.number("memory_budget");
        if (1..LEAST_BUDGET).contains(&memory_budget) {
            let allowed = format!("0, or at least {LEAST_BUDGET} bytes");
            options.refuse("memory_budget", allowed);
        }
        Self {
            memory_budget,
            memory_per_connection: options.number("memory_per_connection"),
            memory_per_project: options.number("memory_per_project"),
            max_operations: options.number("max_operations"),
            max_expensive_operations_per_project: options
                .number("max_expensive_operations_per_project"),
        }
    }

    /// The limits of the memory budget, if the process may use `available` bytes.
    pub fn memory_bounds(&self, available: u64) -> MemoryBounds {
        let process = match self.memory_budget {
            0 => available / DEFAULT_PART,
            bytes => bytes,
        };
        let share = |percent: u64| {
            let share = (process / 100).saturating_mul(percent);
            bytes(share.max(LEAST_CONNECTION_SHARE).min(process))
        };
        MemoryBounds {
            process: bytes(process),
            connection: share(self.memory_per_connection),
            project: share(self.memory_per_project),
        }
    }

    /// The limit of operations in progress.
    pub fn operations(&self) -> usize {
        bytes(self.max_operations)
    }

    /// The limit of expensive operations of one project.
    pub fn expensive_operations_per_project(&self) -> usize {
        bytes(self.max_expensive_operations_per_project)
    }
}

fn bytes(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percents_of_the_budget_with_a_floor() {
        let limits = |memory_budget| Overload {
            memory_budget,
            memory_per_connection: 5,
            memory_per_project: 25,
            max_operations: 1,
            max_expensive_operations_per_project: 1,
        };
        const MIB: u64 = 1 << 20;
        for (budget, available, expected) in [
            (0, 4000 * MIB, [1000 * MIB, 50 * MIB, 250 * MIB]),
            (100 * MIB, 4000 * MIB, [100 * MIB, 16 * MIB, 25 * MIB]),
            (MIB, 4000 * MIB, [MIB, MIB, MIB]),
        ] {
            let bounds = limits(budget).memory_bounds(available);
            let found = [bounds.process, bounds.connection, bounds.project];
            for (found, expected) in found.into_iter().zip(expected) {
                assert!(expected.abs_diff(found as u64) < 100 * 25, "{found} {expected}");
            }
        }
    }
}
