//! The world of one attempt: counts its calls, causes the disruption of the attempt, and records the calls.
//!
//! It does not know the other attempts of the run; `scheduled_run.rs` passes what runs during a pause.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outbox_runtime::simulation::{GuestCall, OutgoingRequest, SimulatedWorld, WorldResponse};

use crate::receivers::{RequestOrigin, SimulatedReceivers};
use crate::schedule::{CrashPoint, Disruption, ResponseFault};

/// What runs while an attempt is paused.
pub(crate) type WhilePaused = Box<dyn FnOnce() + Send>;

/// The world of one attempt.
pub(crate) struct FaultInjector {
    receivers: Arc<Mutex<SimulatedReceivers>>,
    delivery: u32,
    disruption: Option<Disruption>,
    state: Mutex<InjectorState>,
}

#[derive(Default)]
struct InjectorState {
    /// Every call that the attempt has entered, in order.
    calls: Vec<GuestCall>,
    while_paused: Option<WhilePaused>,
    /// Whether the disruption has happened.
    is_reached: bool,
}

impl FaultInjector {
    /// The world of delivery number `delivery`, from 1.
    pub(crate) fn new(
        receivers: Arc<Mutex<SimulatedReceivers>>,
        delivery: u32,
        disruption: Option<Disruption>,
        while_paused: WhilePaused,
    ) -> Self {
        let state = InjectorState { while_paused: Some(while_paused), ..InjectorState::default() };
        Self { receivers, delivery, disruption, state: Mutex::new(state) }
    }

    /// The calls of the attempt, in order.
    pub(crate) fn calls(&self) -> Vec<GuestCall> {
        self.state().calls.clone()
    }

    /// Whether the disruption has happened.
    pub(crate) fn is_reached(&self) -> bool {
        self.state().is_reached
    }

    /// The attempt arrives at a point. `Break` means that its process crashes there. A pause happens inside the call.
    pub(crate) fn reach(&self, point: CrashPoint) -> ControlFlow<()> {
        match self.disruption {
            Some(Disruption::Crash(at) | Disruption::Reload(at)) if at == point => {
                self.state().is_reached = true;
                ControlFlow::Break(())
            }
            Some(Disruption::OverrunLease(at)) if at == point => {
                let while_paused = self.state().while_paused.take();
                self.state().is_reached = true;
                if let Some(while_paused) = while_paused {
                    while_paused();
                }
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    /// The number, from 1, of a call that the attempt has entered and not left.
    fn call_number(&self, call: &GuestCall) -> usize {
        self.state().calls.iter().rposition(|known| known == call).map_or(0, |index| index + 1)
    }

    fn fault(&self, number: usize) -> Option<ResponseFault> {
        match self.disruption {
            Some(Disruption::Fault(at, fault)) if at == number => {
                self.state().is_reached = true;
                Some(fault)
            }
            _ => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, InjectorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receivers(&self) -> MutexGuard<'_, SimulatedReceivers> {
        self.receivers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimulatedWorld for FaultInjector {
    fn before_call(&self, call: &GuestCall) -> ControlFlow<()> {
        let number = {
            let mut state = self.state();
            state.calls.push(call.clone());
            state.calls.len()
        };
        self.reach(CrashPoint::Before(number))
    }

    fn respond(&self, request: &OutgoingRequest) -> WorldResponse {
        let call = self.call_number(&GuestCall::Request(request.clone()));
        let fault = self.fault(call);
        self.receivers().receive(request, RequestOrigin { delivery: self.delivery, call }, fault)
    }

    fn after_call(&self, call: &GuestCall) -> ControlFlow<()> {
        let flow = self.reach(CrashPoint::After(self.call_number(call)));
        if let (ControlFlow::Break(()), GuestCall::Request(request)) = (flow, call) {
            self.receivers().orphan(request);
        }
        flow
    }
}
