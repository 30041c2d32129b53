"""Lightning callbacks that audit, gate and defend a fit."""
