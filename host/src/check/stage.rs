//! One attempt's world: counts its calls, carries out what goes wrong in it, and writes down what it did.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::receivers::{Sender, Town};
use super::schedule::{Fault, Point, Step};
use crate::plugin::lab::{Answer, Call, Request, World};

/// What runs while an attempt stands still.
pub(super) type Meanwhile = Box<dyn FnOnce() + Send>;

/// The world of one attempt.
pub(super) struct Stage {
    town: Arc<Mutex<Town>>,
    delivery: u32,
    step: Option<Step>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    calls: Vec<Call>,
    meanwhile: Option<Meanwhile>,
    is_reached: bool,
}

impl Stage {
    pub(super) fn new(town: Arc<Mutex<Town>>, delivery: u32, step: Option<Step>, meanwhile: Meanwhile) -> Self {
        let inner = Inner { meanwhile: Some(meanwhile), ..Inner::default() };
        Self { town, delivery, step, inner: Mutex::new(inner) }
    }

    /// What the attempt called, in order.
    pub(super) fn calls(&self) -> Vec<Call> {
        self.inner().calls.clone()
    }

    /// Whether what was to go wrong did.
    pub(super) fn is_reached(&self) -> bool {
        self.inner().is_reached
    }

    /// Comes to a point: the attempt may end here, or stand still for a while.
    pub(super) fn reach(&self, point: Point) -> ControlFlow<()> {
        match self.step {
            Some(Step::Crash(at) | Step::Reload(at)) if at == point => {
                self.inner().is_reached = true;
                ControlFlow::Break(())
            }
            Some(Step::Outlive(at)) if at == point => {
                let meanwhile = self.inner().meanwhile.take();
                self.inner().is_reached = true;
                if let Some(meanwhile) = meanwhile {
                    meanwhile();
                }
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    /// The number of a call that was entered and has not been left.
    fn number(&self, call: &Call) -> usize {
        self.inner().calls.iter().rposition(|known| known == call).map_or(0, |index| index + 1)
    }

    fn fault(&self, number: usize) -> Option<Fault> {
        match self.step {
            Some(Step::Fault(at, fault)) if at == number => {
                self.inner().is_reached = true;
                Some(fault)
            }
            _ => None,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn town(&self) -> MutexGuard<'_, Town> {
        self.town.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World for Stage {
    fn enter(&self, call: &Call) -> ControlFlow<()> {
        let number = {
            let mut inner = self.inner();
            inner.calls.push(call.clone());
            inner.calls.len()
        };
        self.reach(Point::Before(number))
    }

    fn answer(&self, request: &Request) -> Answer {
        let call = self.number(&Call::Request(request.clone()));
        let fault = self.fault(call);
        self.town().receive(request, Sender { delivery: self.delivery, call }, fault)
    }

    fn leave(&self, call: &Call) -> ControlFlow<()> {
        let flow = self.reach(Point::After(self.number(call)));
        if let (ControlFlow::Break(()), Call::Request(request)) = (flow, call) {
            self.town().orphan(request);
        }
        flow
    }
}
