//! Heads.

use async_trait::async_trait;
use zaqar_core::storage::{Error, Guarded, Heads};
use zaqar_core::{Generation, Incarnation, QueueKey, Timestamp, Version};

use crate::Redis;
use crate::driver::{Call, Repeat, Step, VERSION, arguments, digits, time};
use crate::error::Garbled;
use crate::reply::{Outcome, Reply};
use crate::scripts::{self, Script};

#[async_trait]
impl Heads for Redis {
    async fn open(
        &self,
        key: &QueueKey,
        generation: Generation,
        now: Timestamp,
    ) -> Result<Generation, Error> {
        let mut arguments = [
            digits(generation.incarnation.get()),
            digits(generation.version.get()),
            time(self.at(now)),
        ];
        let opened = self.ask_head(key, &scripts::OPEN, &mut arguments).await?;
        Ok(opened.ok_or(Garbled)?)
    }

    async fn generation(&self, key: &QueueKey) -> Result<Option<Generation>, Error> {
        self.ask_head(key, &scripts::GENERATION, &mut []).await
    }

    async fn advance(&self, key: &QueueKey, generation: Generation) -> Result<Guarded<()>, Error> {
        let mut arguments = of_incarnation(generation.incarnation);
        arguments.push(digits(generation.version.get()));
        self.change_head(key, &scripts::ADVANCE, arguments, Repeat::Harmless).await
    }

    async fn close(&self, key: &QueueKey, incarnation: Incarnation) -> Result<Guarded<()>, Error> {
        // The second time it would say that there was no head.
        self.change_head(key, &scripts::CLOSE, of_incarnation(incarnation), Repeat::Never).await
    }
}

impl Redis {
    async fn ask_head(
        &self,
        key: &QueueKey,
        script: &'static Script,
        arguments: &mut [Vec<u8>],
    ) -> Result<Option<Generation>, Error> {
        let place = self.server().keys().head(key);
        let is_write = !arguments.is_empty();
        let call = Call {
            script,
            place: &place,
            other: None,
            arguments,
            repeat: Repeat::Harmless,
            is_write,
        };
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
        repeat: Repeat,
    ) -> Result<Guarded<()>, Error> {
        let step = Step { script, repeat, is_write: true, arguments };
        let outcome: Outcome = self.step(key, step).await?;
        Ok(outcome.guarded(|_, _| Ok(()))?)
    }
}

/// Arguments of a step that asks for the incarnation only, and knows no time.
fn of_incarnation(incarnation: Incarnation) -> Vec<Vec<u8>> {
    let assumed = Generation { incarnation, version: Version::new(0) };
    let mut arguments = arguments(Some(assumed), Timestamp::from_millis(0));
    arguments[VERSION].clear();
    arguments
}
