"""A marketplace that never was: its people, what they do, who deceives, and what is known of it.

Rooms of `sectionfour.simulate`; nothing here is used by the service or by training.
"""
