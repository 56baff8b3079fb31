//! Heads.

use async_trait::async_trait;
use zaqar_core::storage::{Error, Guarded, Heads, Movable, Moves};
use zaqar_core::{Generation, Incarnation, QueueKey, Timestamp, Version};

use crate::Redis;
use crate::driver::{HeadCall, VERSION, arguments, digits};
use crate::error::Malformed;
use crate::reply::{Outcome, Reply};
use crate::scripts::{self, Script};
use crate::server::{Mode, ScriptCall};

#[async_trait]
impl Heads for Redis {
    async fn open(
        &self,
        key: &QueueKey,
        generation: Generation,
        now: Timestamp,
    ) -> Result<Generation, Error> {
        let arguments = [digits(generation.incarnation.get()), digits(generation.version.get())];
        let opened = self.open_or_read(key, &scripts::OPEN, &arguments, Some(now)).await?;
        Ok(opened.ok_or(Malformed)?)
    }

    async fn generation(&self, key: &QueueKey) -> Result<Option<Generation>, Error> {
        self.open_or_read(key, &scripts::GENERATION, &[], None).await
    }

    async fn advance(&self, key: &QueueKey, generation: Generation) -> Result<Guarded<()>, Error> {
        let mut arguments = of_incarnation(generation.incarnation);
        arguments.push(digits(generation.version.get()));
        self.update_incarnation(key, &scripts::ADVANCE, arguments).await
    }

    async fn close(&self, key: &QueueKey, incarnation: Incarnation) -> Result<Guarded<()>, Error> {
        self.update_incarnation(key, &scripts::CLOSE, of_incarnation(incarnation)).await
    }
}

impl Movable for Redis {
    fn moves(&self) -> Option<&dyn Moves> {
        Some(self)
    }
}

impl Redis {
    async fn open_or_read(
        &self,
        key: &QueueKey,
        script: &'static Script,
        arguments: &[Vec<u8>],
        now: Option<Timestamp>,
    ) -> Result<Option<Generation>, Error> {
        let keys = self.server().keys().head(key);
        let mode = if arguments.is_empty() { Mode::Read } else { Mode::Write };
        let project = key.project.as_str();
        let call = ScriptCall { now, project, ..ScriptCall::new(script, &keys, arguments, mode) };
        let mut reply = Reply::new(self.server().run(call).await?)?;
        match reply.bytes()?.as_slice() {
            b"absent" => Ok(None),
            b"moved" => Err(reply.moved()?),
            _ => Ok(Some(reply.generation()?)),
        }
    }

    async fn update_incarnation(
        &self,
        key: &QueueKey,
        script: &'static Script,
        arguments: Vec<Vec<u8>>,
    ) -> Result<Guarded<()>, Error> {
        let call = HeadCall::new(script, Mode::Write, None, arguments);
        let outcome: Outcome = self.call_head(key, call).await?;
        Ok(outcome.guarded(|_, _| Ok(()))?)
    }
}

/// Arguments of a call that assumes an incarnation only, at no time.
fn of_incarnation(incarnation: Incarnation) -> Vec<Vec<u8>> {
    let assumed = Generation { incarnation, version: Version::new(0) };
    let mut arguments = arguments(Some(assumed));
    arguments[VERSION].clear();
    arguments
}
