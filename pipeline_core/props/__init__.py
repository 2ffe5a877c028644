"""The procedural world: props by category, their captions, and a ray caster. The ground floor; loads no model."""
