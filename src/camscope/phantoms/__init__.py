"""Generate phantom chest radiographs: synthetic patients with findings and markers at known positions."""
