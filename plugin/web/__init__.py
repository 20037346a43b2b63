"""What answers under /oar: routes, pages, the viewer."""
