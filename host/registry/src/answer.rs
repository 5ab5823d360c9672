//! The answers of registries: read up to a limit of bytes, and told apart from refusals.
//!
//! It does not know what is asked for.

use reqwest::{RequestBuilder, Response};

use crate::error::RegistryProblem;

/// Bytes of the text of a refusal that are read.
const REFUSAL_MAX: u64 = 64 << 10;

/// The host that is asked, and what an operator does when it asks for other credentials.
#[derive(Clone, Copy)]
pub(crate) struct AskedHost<'a> {
    /// The host, with its port if one is given.
    pub(crate) host: &'a str,
    /// What to do about credentials.
    pub(crate) advice: &'a str,
}

impl AskedHost<'_> {
    /// Sends a request. The answer has any status.
    pub(crate) async fn send(self, request: RequestBuilder) -> Result<Response, RegistryProblem> {
        request.send().await.map_err(|err| RegistryProblem::of_failure(self.host, err))
    }

    /// Sends a request that must succeed.
    pub(crate) async fn ask(self, request: RequestBuilder) -> Result<Response, RegistryProblem> {
        let answer = self.send(request).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        let text = self.body(answer, REFUSAL_MAX).await.ok().flatten();
        Err(RegistryProblem::of_refusal(self.host, status, text.as_deref(), self.advice))
    }

    /// The bytes of an answer; `None` where there are more than `limit`. No more than these are kept in memory.
    pub(crate) async fn body(self, mut answer: Response, limit: u64) -> Result<Option<Vec<u8>>, RegistryProblem> {
        let mut bytes = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|err| RegistryProblem::of_failure(self.host, err))? {
            if (bytes.len() + part.len()) as u64 > limit {
                return Ok(None);
            }
            bytes.extend_from_slice(&part);
        }
        Ok(Some(bytes))
    }

    /// The bytes of an answer. Errors where there are more than `limit`.
    pub(crate) async fn whole(
        self,
        answer: Response,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryProblem> {
        let bytes = self.body(answer, limit).await?;
        bytes.ok_or_else(|| RegistryProblem::Endless { host: self.host.to_owned(), what, limit })
    }
}
