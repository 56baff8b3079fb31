//! Heads.

use async_trait::async_trait;
use zaqar_core::storage::{Error, Guarded, Heads};
use zaqar_core::{Generation, Incarnation, QueueKey, Timestamp, Version};

use crate::Redis;
use crate::driver::{Step, VERSION, arguments, digits};
use crate::error::Garbled;
use crate::reply::{Outcome, Reply};
use crate::scripts::{self, Script};
use crate::server::{Call, Mode};

#[async_trait]
impl Heads for Redis {
    async fn open(
        &self,
        key: &QueueKey,
        generation: Generation,
        now: Timestamp,
    ) -> Result<Generation, Error> {
        let arguments = [digits(generation.incarnation.get()), digits(generation.version.get())];
        let opened = self.ask_head(key, &scripts::OPEN, &arguments, Some(now)).await?;
        Ok(opened.ok_or(Garbled)?)
    }

    async fn generation(&self, key: &QueueKey) -> Result<Option<Generation>, Error> {
        self.ask_head(key, &scripts::GENERATION, &[], None).await
    }

    async fn advance(&self, key: &QueueKey, generation: Generation) -> Result<Guarded<()>, Error> {
        let mut arguments = of_incarnation(generation.incarnation);
        arguments.push(digits(generation.version.get()));
        self.change_head(key, &scripts::ADVANCE, arguments).await
    }

    async fn close(&self, key: &QueueKey, incarnation: Incarnation) -> Result<Guarded<()>, Error> {
        self.change_head(key, &scripts::CLOSE, of_incarnation(incarnation)).await
    }
}

impl Redis {
    async fn ask_head(
        &self,
        key: &QueueKey,
        script: &'static Script,
        arguments: &[Vec<u8>],
        now: Option<Timestamp>,
    ) -> Result<Option<Generation>, Error> {
        let place = self.server().keys().head(key);
        let mode = if arguments.is_empty() { Mode::Read } else { Mode::Write };
        let project = key.project.as_str();
        let call = Call { now, project, ..Call::new(script, &place, arguments, mode) };
        let mut reply = Reply::new(self.server().run(call).await?)?;
        if reply.bytes()? == b"absent" {
            return Ok(None);
        }
        Ok(Some(reply.generation()?))
    }

    async fn change_head(
        &self,
        key: &QueueKey,
        script: &'static Script,
        arguments: Vec<Vec<u8>>,
    ) -> Result<Guarded<()>, Error> {
        let step = Step::new(script, Mode::Write, None, arguments);
        let outcome: Outcome = self.step(key, step).await?;
        Ok(outcome.guarded(|_, _| Ok(()))?)
    }
}

/// Arguments of a step that asks for the incarnation only, and knows no time.
fn of_incarnation(incarnation: Incarnation) -> Vec<Vec<u8>> {
    let assumed = Generation { incarnation, version: Version::new(0) };
    let mut arguments = arguments(Some(assumed));
    arguments[VERSION].clear();
    arguments
}
