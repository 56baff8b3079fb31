//! Permits: bytes that are charged.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Holder, MemoryScope, OverBudget, add_up_to};
use crate::ProjectId;

/// Bytes that are charged to a [`Holder`] until this is dropped.
#[derive(Debug)]
pub struct Permit {
    pub(super) holder: Holder,
    pub(super) bytes: usize,
}

impl Permit {
    /// Bytes that are charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The holder that is charged.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Splits off a part of the permit, at most all of it. The total charge does not change.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { holder: self.holder.clone(), bytes }
    }

    /// Moves the charge to another project; the charges of the connection and the process do not
    /// change.
    ///
    /// # Errors
    /// [`OverBudget`] if the project would exceed its bound; the permit does not change.
    pub fn charge_project(&mut self, id: &ProjectId) -> Result<(), OverBudget> {
        if self.holder.project.as_ref().is_some_and(|project| project.id == *id) {
            return Ok(());
        }
        let holder = self.holder.for_project(id);
        let limit = self.holder.shared.bounds.project;
        if let Some(project) = &holder.project
            && let Err(in_use) = add_up_to(&project.in_use, self.bytes, limit)
        {
            self.holder.shared.refused.fetch_add(1, Ordering::Relaxed);
            let (scope, requested) = (MemoryScope::Project, self.bytes);
            return Err(OverBudget { scope, limit, in_use, requested });
        }
        if let Some(earlier) = &self.holder.project {
            earlier.in_use.fetch_sub(self.bytes, Ordering::Relaxed);
        }
        if self.holder.is_background {
            if let Some(earlier) = &self.holder.project {
                earlier.background.fetch_sub(self.bytes, Ordering::Relaxed);
            }
            if let Some(project) = &holder.project {
                project.background.fetch_add(self.bytes, Ordering::Relaxed);
            }
        }
        self.holder = holder;
        Ok(())
    }

    /// Charges more.
    ///
    /// # Errors
    /// [`OverBudget`]; the permit does not change.
    pub fn grow(&mut self, bytes: usize) -> Result<(), OverBudget> {
        if bytes > 0 {
            self.holder.charge(bytes)?;
            self.bytes += bytes;
        }
        Ok(())
    }

    /// Charges less, at least 0.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        if bytes > 0 {
            self.holder.release(bytes);
            self.bytes -= bytes;
        }
    }

    /// Charges exactly `bytes` from now on.
    ///
    /// # Errors
    /// [`OverBudget`] if an increase would exceed a bound; the permit does not change.
    pub fn resize(&mut self, bytes: usize) -> Result<(), OverBudget> {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        self.shrink(self.bytes - bytes);
        Ok(())
    }

    /// Charges exactly `bytes` from now on, even above the bounds: for data that exists already and
    /// must not be dropped, such as popped messages. Other permits are rejected until it is
    /// released.
    pub fn resize_past_bounds(&mut self, bytes: usize) {
        if let Some(more) = bytes.checked_sub(self.bytes) {
            self.holder.each(|(_, _, counter)| {
                counter.fetch_add(more, Ordering::Relaxed);
            });
            self.bytes = bytes;
        } else {
            self.shrink(self.bytes - bytes);
        }
    }

    /// Whether more is charged to its holder than a bound allows.
    pub fn is_past_bounds(&self) -> bool {
        let fits = self.holder.try_each(|(_, limit, counter)| {
            if counter.load(Ordering::Relaxed) > limit { Err(()) } else { Ok(()) }
        });
        fits.is_err()
    }

    /// Ties the permit to bytes: it is dropped with the last slice of them. One allocation.
    #[must_use]
    pub fn attach(self, bytes: Bytes) -> Bytes {
        struct Charged(Bytes, #[expect(dead_code, reason = "dropped with the bytes")] Permit);

        impl AsRef<[u8]> for Charged {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        Bytes::from_owner(Charged(bytes, self))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}
