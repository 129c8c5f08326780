//! Which backends stand in a service, and at which positions.

use std::net::SocketAddr;

use balancer_common::{
    maps::MAX_MEMBERSHIPS,
    service::{LEAF_POSITIONS, Membership},
};

use super::{Planner, Postponed};
use crate::{
    model::{self, Service, ServiceName},
    reconcile::{near::Circle, op::Op},
};

impl<H: Fn(u32) -> u64> Planner<'_, H> {
    /// Adds the members that are missing, as far as there is room.
    pub(super) fn add_members(&mut self, name: &ServiceName, service: &Service) {
        let missing: Vec<_> = match self.assignment.services.get(name) {
            Some(assigned) => service
                .backends
                .iter()
                .filter(|backend| !assigned.members.contains_key(&backend.address))
                .collect(),
            None => return,
        };
        self.postponed.retain(|postponed| {
            !matches!(postponed, Postponed::Positions(service, _) | Postponed::LeafIds(service, _) if service == name)
        });
        let added = !missing.is_empty();
        for backend in missing {
            let circle = self.assignment.here.circle(backend, service.prefers());
            match self.add_member(name, backend.address, circle, false) {
                Ok(()) => self.warm_up(name, service, backend),
                Err(postponed) => self.postponed.push(postponed),
            }
        }
        for backend in &service.backends {
            self.set_weight(backend);
        }
        if added {
            self.set_size(name);
        }
    }

    /// Has a backend that joins a running service begin with less than its share.
    fn warm_up(&mut self, name: &ServiceName, service: &Service, backend: &model::Backend) {
        let over = service.starts_slowly();
        let (Some(assigned), Some(backend)) = (
            self.assignment.services.get(name),
            self.assignment.backends.get(&backend.address),
        ) else {
            return;
        };
        // One that serves another service already is warm.
        let is_new = backend.memberships.len() == 1;
        if !over.is_zero() && is_new && !self.fresh.contains(&assigned.id) {
            let id = backend.id;
            self.ops.push(Op::WarmUp { id, over });
        }
    }

    /// Moves the members that stand in another circle than they belong to: first to the new place,
    /// then from the old, so that the service is never without them.
    pub(super) fn move_members(&mut self, name: &ServiceName, service: &Service) {
        if service.prefers() == model::Locality::None {
            // Circles mean nothing then.
            return;
        }
        for backend in &service.backends {
            let circle = self.assignment.here.circle(backend, service.prefers());
            let Some(assigned) = self.assignment.services.get_mut(name) else {
                return;
            };
            let Some(from) = assigned.members.get(&backend.address).copied() else {
                continue;
            };
            if assigned.positions.circle(from) == Some(circle) {
                continue;
            }
            assigned.members.remove(&backend.address);
            if self
                .add_member(name, backend.address, circle, false)
                .is_ok()
            {
                self.leave_position(name, backend.address, from);
            } else if let Some(assigned) = self.assignment.services.get_mut(name) {
                // No room to move; where it is, it serves as well.
                assigned.members.insert(backend.address, from);
            }
        }
        self.set_size(name);
    }

    pub(super) fn add_member(
        &mut self,
        name: &ServiceName,
        address: SocketAddr,
        circle: Circle,
        at_once: bool,
    ) -> Result<(), Postponed> {
        let no_position = || Postponed::Positions(name.clone(), address);
        let assigned = self
            .assignment
            .services
            .get_mut(name)
            .ok_or_else(no_position)?;
        // Without an id it has been postponed already.
        let Some(backend) = self.assignment.backends.get_mut(&address) else {
            return Ok(());
        };
        if backend.memberships.len() == MAX_MEMBERSHIPS {
            return Err(no_position());
        }
        let position = match at_once {
            true => assigned.positions.take_at_once(circle, self.now),
            false => assigned.positions.take(circle, self.now),
        };
        let position = position.ok_or_else(no_position)?;
        let number = position / LEAF_POSITIONS as u32;
        if let std::collections::btree_map::Entry::Vacant(leaf) = assigned.leaves.entry(number) {
            let Some(id) = self.assignment.leaf_ids.take(self.now) else {
                assigned.positions.free(position, self.now);
                return Err(Postponed::LeafIds(name.clone(), address));
            };
            leaf.insert(id);
            self.ops.push(Op::AddLeaf {
                service: assigned.id,
                number,
                leaf: id,
                circle,
            });
        }
        assigned.members.insert(address, position);
        backend
            .memberships
            .push(Membership::new(assigned.id, position));
        self.ops.push(Op::AddMember {
            service: assigned.id,
            position,
            backend: backend.id,
            memberships: backend.memberships.clone(),
        });
        Ok(())
    }

    pub(super) fn remove_member(&mut self, name: &ServiceName, address: SocketAddr) {
        let Some(assigned) = self.assignment.services.get_mut(name) else {
            return;
        };
        let Some(position) = assigned.members.remove(&address) else {
            return;
        };
        self.leave_position(name, address, position);
        let Some(backend) = self.assignment.backends.get_mut(&address) else {
            return;
        };
        backend.limits.remove(name);
        if backend.is_in_no_service() {
            self.retire_backend(address);
        } else {
            self.grant(std::iter::once(address));
        }
    }

    /// Takes a backend from a position.
    fn leave_position(&mut self, name: &ServiceName, address: SocketAddr, position: u32) {
        let (Some(assigned), Some(backend)) = (
            self.assignment.services.get_mut(name),
            self.assignment.backends.get_mut(&address),
        ) else {
            return;
        };
        assigned.positions.free(position, self.now);
        let membership = Membership::new(assigned.id, position);
        let mut memberships = backend.memberships.iter();
        if let Some(place) = memberships.position(|one| *one == membership) {
            backend.memberships.swap_remove(place);
        }
        self.ops.push(Op::RemoveMember {
            service: assigned.id,
            position,
            backend: backend.id,
            memberships: backend.memberships.clone(),
        });
    }
}
